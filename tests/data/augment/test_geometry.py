"""Geometric operations beside Pillow's, over the range of their arguments."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from cdnv2_jax.data.augment import operations as geometry
from cdnv2_jax.data.augment.operations import FILL, PILLOW, Resample
from tests.data.photographs import assorted

Matrix = tuple[float, float, float, float, float, float]

AFFINE: dict[str, tuple[Callable[..., np.ndarray], Callable[[float, int, int], Matrix], float]] = {
    "shear_x": (geometry.shear_x, lambda factor, width, height: (1, factor, 0, 0, 1, 0), 0.3),
    "shear_y": (geometry.shear_y, lambda factor, width, height: (1, 0, 0, factor, 1, 0), 0.3),
    "translate_x": (geometry.translate_x, lambda share, width, height: (1, 0, share * width, 0, 1, 0), 0.45),
    "translate_y": (geometry.translate_y, lambda share, width, height: (1, 0, 0, 0, 1, share * height), 0.45),
}
"""Ours, the matrix from where a pixel goes to where it comes from, the largest argument."""

RESAMPLES: list[Resample] = ["bilinear", "bicubic"]


@pytest.mark.parametrize("image", assorted().values(), ids=assorted())
@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize(("ours", "matrix", "most"), AFFINE.values(), ids=AFFINE)
def test_beside_pillow(ours: Callable, matrix: Callable, most: float, resample: Resample, image: np.ndarray) -> None:
    """One level at most, and that seldom; also far outside the range that RandAugment uses."""
    before = image.copy()
    height, width = image.shape[:2]
    for share in (-3.7, -1, -0.87, -0.4, -0.01, 0, 0.003, 0.3, 0.66, 0.9, 1, 5):
        found = ours(image, share * most, resample)
        assert (found.dtype, found.shape) == (np.uint8, image.shape)
        expected = Image.fromarray(image).transform(
            (width, height),
            Image.Transform.AFFINE,
            matrix(share * most, width, height),
            resample=PILLOW[resample],
            fillcolor=FILL,
        )
        difference = np.abs(found.astype(int) - np.asarray(expected))
        assert difference.max() <= 1, share
        assert difference.mean() <= 0.1 or image.size < 3000, share
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("image", assorted().values(), ids=assorted())
@pytest.mark.parametrize("resample", RESAMPLES)
def test_rotation_is_pillows(resample: Resample, image: np.ndarray) -> None:
    for degrees in (-30.0, -11.1, 0.0, 0.4, 27.0):
        expected = Image.fromarray(image).rotate(degrees, PILLOW[resample], fillcolor=FILL)
        np.testing.assert_array_equal(geometry.rotate(image, degrees, resample), expected)


@pytest.mark.parametrize("resample", RESAMPLES)
def test_whole_pixels_are_moved_unchanged(resample: Resample) -> None:
    image = assorted()["flower"]
    moved = geometry.translate_x(image, 56 / 224, resample)
    np.testing.assert_array_equal(moved[:, :168], image[:, 56:])
    np.testing.assert_array_equal(moved[:, 168:], np.broadcast_to(FILL, (224, 56, 3)))
    raised = geometry.translate_y(image, -56 / 224, resample)
    np.testing.assert_array_equal(raised[56:], image[:168])


def test_filling_is_not_shared() -> None:
    """What is given out may be written to."""
    image = assorted()["flat"]
    geometry.shear_x(image, 0.3, "bilinear")[:] = 9
    assert tuple(geometry.translate_x(image, 0.9, "bilinear")[0, -1]) == FILL
