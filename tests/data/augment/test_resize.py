"""Resizing beside Pillow's."""

import numpy as np
import pytest
from PIL import Image

from cdnv2_jax.data.augment.crops import resize
from cdnv2_jax.data.augment.operations import PILLOW, Resample
from tests.data.photographs import photographs

RESAMPLES: list[Resample] = ["bilinear", "bicubic"]


def _difference(image: np.ndarray, size: int, resample: Resample) -> np.ndarray:
    expected = np.asarray(Image.fromarray(image).resize((size, size), PILLOW[resample]))
    found = resize(image, size, resample)
    assert (found.dtype, found.shape) == (np.uint8, (size, size, 3))
    return found.astype(int) - expected


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("shape", [(375, 500), (300, 300), (224, 400), (230, 230), (375, 120), (130, 110), (500, 640)])
def test_near_pillow(shape: tuple[int, int], resample: Resample) -> None:
    for photograph in photographs(640, 500):
        difference = _difference(photograph[: shape[0], : shape[1]], 224, resample)
        assert np.sqrt(np.square(difference).mean()) < 2.6
        assert abs(difference.mean()) < 0.3


@pytest.mark.parametrize("resample", RESAMPLES)
def test_antialiased(resample: Resample) -> None:
    """Stripes finer than what can be shown become their mean grey, nearly."""
    stripes = np.zeros((448, 448, 3), np.uint8)
    stripes[:, ::2] = 200
    stripes = np.roll(stripes, 1, axis=1)
    assert np.abs(resize(stripes, 224, resample)[:, 4:-4].astype(int) - 100).max() <= 3
    assert np.abs(resize(stripes[:300, :300], 224, resample).astype(int) - 100).max() < 60


def test_bilinear_enlarging_equals_pillow_but_for_rounding() -> None:
    for photograph in photographs():
        for height, width in ((224, 224), (200, 223), (100, 31), (3, 2), (1, 1), (1, 9)):
            assert np.abs(_difference(photograph[:height, :width], 224, "bilinear")).max() <= 1


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("size", [32, 45, 83, 124])
def test_far_shrinking(size: int, resample: Resample) -> None:
    """Odd rows and columns of an image that is halved are left out."""
    for photograph in photographs(640, 500):
        even = photograph[:400, :640]
        assert np.sqrt(np.square(_difference(even, size, resample)).mean()) < 3.5
        np.testing.assert_array_equal(resize(photograph[:401, :640], size, resample), resize(even, size, resample))


@pytest.mark.parametrize("resample", RESAMPLES)
def test_narrow_images_are_pillows(resample: Resample) -> None:
    image = photographs()[0]
    for part, size in ((image[:10], 100), (image[:, :1], 7), (image[:150], 100)):
        np.testing.assert_array_equal(_difference(part, size, resample), 0)


@pytest.mark.parametrize("resample", RESAMPLES)
def test_same_size_and_flat_images(resample: Resample) -> None:
    flat = np.full((300, 401, 3), (3, 130, 255), np.uint8)
    np.testing.assert_array_equal(resize(flat, 224, resample), flat[:224, :224])
    assert resize(np.zeros((1, 1, 3), np.uint8), 5, resample).shape == (5, 5, 3)


@pytest.mark.parametrize("resample", RESAMPLES)
def test_sees_nothing_beyond_a_crop(resample: Resample) -> None:
    """A view into a larger image gives what a copy gives."""
    for photograph in photographs():
        part = photograph[40:340, 60:420]
        np.testing.assert_array_equal(resize(part, 224, resample), resize(part.copy(), 224, resample))
