"""The box's distribution against closed forms, and what lies in it."""

import numpy as np
import pytest

from cdnv2_jax.data.augment.crops import Box, central_box, crop_and_resize, draw_box

DRAWS = 20_000


def _boxes(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([draw_box(height, width, rng) for _ in range(DRAWS)])


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (1, 1), (2, 1), (3, 200), (200, 3), (1, 100)])
def test_inside(height: int, width: int) -> None:
    top, left, tall, wide = _boxes(height, width).T
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
    assert {tuple(box) for box in _boxes(10, 1000)} == {central_box(10, 1000)}


def test_crop() -> None:
    """A part that has the size already comes through as it is."""
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    np.testing.assert_array_equal(crop_and_resize(image, Box(3, 7, 24, 24), 24, "bilinear"), image[3:27, 7:31])
