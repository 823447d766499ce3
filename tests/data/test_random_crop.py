"""Random resized crops: the box's distribution against closed forms, resizing beside Pillow's."""

import numpy as np
import pytest
from PIL import Image

from cdnv2_jax.data.preparation import PILLOW, Interpolation
from cdnv2_jax.data.random_crop import Rectangle, central_box, crop_and_resize, draw_box, resize
from tests.data.photographs import photographs


def _boxes(height: int, width: int, draws: int = 20_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([draw_box(height, width, rng) for _ in range(draws)])


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (1, 1), (2, 1), (3, 200), (200, 3), (1, 100)])
def test_inside(height: int, width: int) -> None:
    top, left, tall, wide = _boxes(height, width, 5_000).T
    assert min(top.min(), left.min()) >= 0 and min(tall.min(), wide.min()) >= 1
    assert (top + tall).max() <= height and (left + wide).max() <= width


def test_areas_and_ratios() -> None:
    """Where every ratio fits (up to half the area of a square), areas are uniform and log ratios, too."""
    _, _, tall, wide = _boxes(1000, 1000).T
    area, ratio = tall * wide / 1e6, np.log(wide / tall) / np.log(4 / 3)
    assert area.min() == pytest.approx(0.08, abs=0.002)
    always_fits = area < 0.7
    quantiles = np.linspace(0.1, 0.9, 9)
    found = np.quantile(area[always_fits], quantiles)
    np.testing.assert_allclose(found, 0.08 + 0.62 * quantiles, atol=0.02)
    np.testing.assert_allclose(np.quantile(ratio[always_fits], quantiles), 2 * quantiles - 1, atol=0.05)
    assert np.abs(ratio).max() < 1.01


def test_place_is_uniform() -> None:
    top, left, tall, wide = _boxes(375, 500).T
    for start, size, side in ((top, tall, 375), (left, wide, 500)):
        room = side - size
        assert (start == 0).any() and (start == room).any()
        place = (start + 0.5) / (room + 1)
        np.testing.assert_allclose(np.quantile(place, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.02)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (300, 1000, (0, 300, 300, 400)),
        (1000, 300, (300, 0, 400, 300)),
        (100, 120, (0, 0, 100, 120)),
        (3, 100, (0, 48, 3, 4)),
        (1, 1, (0, 0, 1, 1)),
        (1, 2, (0, 0, 1, 1)),
        (101, 300, (0, 82, 101, 135)),
    ],
)
def test_central_box(height: int, width: int, box: tuple[int, int, int, int]) -> None:
    assert central_box(height, width) == box


def test_narrow_images_fall_back_to_the_middle() -> None:
    """Of 10 × 1000 pixels nothing with 0.08 of the area and a ratio up to 4⁄3 can be had."""
    assert {tuple(box) for box in _boxes(10, 1000, 2_000)} == {central_box(10, 1000)}


def test_crop() -> None:
    """A part that has the size already comes through as it is."""
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    np.testing.assert_array_equal(crop_and_resize(image, Rectangle(3, 7, 24, 24), 24, "bilinear"), image[3:27, 7:31])


RESAMPLES: list[Interpolation] = ["bilinear", "bicubic"]


def _difference(image: np.ndarray, size: int, resample: Interpolation) -> np.ndarray:
    expected = np.asarray(Image.fromarray(image).resize((size, size), PILLOW[resample]))
    found = resize(image, size, resample)
    assert (found.dtype, found.shape) == (np.uint8, (size, size, 3))
    return found.astype(int) - expected


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("shape", [(375, 500), (300, 300), (224, 400), (230, 230), (375, 120), (130, 110), (500, 640)])
def test_near_pillow(shape: tuple[int, int], resample: Interpolation) -> None:
    for photograph in photographs(640, 500):
        difference = _difference(photograph[: shape[0], : shape[1]], 224, resample)
        assert np.sqrt(np.square(difference).mean()) < 2.6
        assert abs(difference.mean()) < 0.3


@pytest.mark.parametrize("resample", RESAMPLES)
def test_antialiased(resample: Interpolation) -> None:
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
def test_far_shrinking(size: int, resample: Interpolation) -> None:
    """Odd rows and columns of an image that is halved are left out."""
    for photograph in photographs(640, 500):
        even = photograph[:400, :640]
        assert np.sqrt(np.square(_difference(even, size, resample)).mean()) < 3.5
        np.testing.assert_array_equal(resize(photograph[:401, :640], size, resample), resize(even, size, resample))


@pytest.mark.parametrize("resample", RESAMPLES)
def test_narrow_images_are_pillows(resample: Interpolation) -> None:
    image = photographs()[0]
    for part, size in ((image[:10], 100), (image[:, :1], 7), (image[:150], 100)):
        np.testing.assert_array_equal(_difference(part, size, resample), 0)


@pytest.mark.parametrize("resample", RESAMPLES)
def test_same_size_and_flat_images(resample: Interpolation) -> None:
    flat = np.full((300, 401, 3), (3, 130, 255), np.uint8)
    np.testing.assert_array_equal(resize(flat, 224, resample), flat[:224, :224])
    assert resize(np.zeros((1, 1, 3), np.uint8), 5, resample).shape == (5, 5, 3)


@pytest.mark.parametrize("resample", RESAMPLES)
def test_sees_nothing_beyond_a_crop(resample: Interpolation) -> None:
    """A view into a larger image gives what a copy gives."""
    for photograph in photographs():
        part = photograph[40:340, 60:420]
        np.testing.assert_array_equal(resize(part, 224, resample), resize(part.copy(), 224, resample))
