"""Sizes by hand, bilinear resizing against a plain loop, boxes that follow their pixels."""

import numpy as np
import pytest

from cdnv2_jax.data.canvas import (
    CanvasPreparation,
    canvas_size,
    flip_boxes,
    on_canvas,
    resize,
    resized_size,
    scale_boxes,
)


@pytest.mark.parametrize(
    ("original", "resized"),
    [
        ((480, 640), (800, 1067)),  # 640 · 800 / 480 = 1066.67
        ((640, 480), (1067, 800)),
        ((427, 640), (800, 1199)),  # 640 · 800 / 427 = 1199.06
        ((200, 1000), (267, 1333)),  # the longer side decides: 200 · 1.333 = 266.6
        ((800, 1333), (800, 1333)),
        ((500, 500), (800, 800)),
        ((1, 10_000), (1, 1333)),  # 0.13 rounds to nothing
    ],
)
def test_sizes(original: tuple[int, int], resized: tuple[int, int]) -> None:
    assert resized_size(*original) == resized


def test_halves_are_rounded_up() -> None:
    assert resized_size(64, 129, short_side=32, long_side=1000) == (32, 65)  # 64.5


def test_every_resized_image_fits_its_canvas() -> None:
    assert (canvas_size(True), canvas_size(False)) == ((800, 1344), (1344, 800))
    assert canvas_size(True, 100, 160) == (128, 160)
    random = np.random.default_rng(0)
    for height, width in random.integers(1, 3000, (500, 2)).tolist():
        for size, landscape in ((resized_size(height, width), width > height),):
            assert (np.array(size) <= canvas_size(landscape)).all()


def _bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Centres of pixels lie on centres of pixels; the border's values go on outside."""
    made = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            y = min(max((row + 0.5) * image.shape[0] / height - 0.5, 0), image.shape[0] - 1)
            x = min(max((column + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            above = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
            below = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
            made[row, column] = above * (1 - y + top) + below * (y - top)
    return made


@pytest.mark.parametrize("size", [(30, 52), (7, 9), (13, 40), (20, 25)])
def test_bilinear(size: tuple[int, int]) -> None:
    """Also when shrinking, where there is no antialiasing."""
    image = np.random.default_rng(1).integers(0, 256, (20, 25, 3), np.uint8)
    resized, scale = resize(image, size)
    assert np.abs(resized - _bilinear(image.astype(float), *size)).max() <= 1.01
    np.testing.assert_allclose(scale, [size[1] / 25, size[0] / 20], rtol=1e-6)
    assert (resized.dtype, scale.dtype) == (np.uint8, np.float32)


def test_boxes_are_scaled_and_clipped() -> None:
    boxes = np.array([[1, 2, 3, 4], [-5, 1, 30, 40], [0, 0, 20, 10]], np.float32)
    scaled = scale_boxes(boxes, np.array([2, 3], np.float32), (30, 40))
    np.testing.assert_array_equal(scaled, [[2, 6, 6, 12], [0, 3, 40, 30], [0, 0, 40, 30]])
    assert scale_boxes(np.zeros((0, 4), np.float32), np.ones(2, np.float32), (3, 3)).shape == (0, 4)


def test_boxes_are_flipped() -> None:
    boxes = np.array([[1, 2, 3, 4], [0, 0, 10, 5]], np.float32)
    np.testing.assert_array_equal(flip_boxes(boxes, 10), [[7, 2, 9, 4], [0, 0, 10, 5]])
    np.testing.assert_array_equal(flip_boxes(flip_boxes(boxes, 10), 10), boxes)


def test_a_canvas_is_black_around_the_image() -> None:
    image = np.full((3, 5, 3), 7, np.uint8)
    canvas = on_canvas(image, (4, 8))
    assert canvas.shape == (4, 8, 3) and canvas.dtype == np.uint8
    assert (canvas[:3, :5] == 7).all() and canvas.sum() == image.sum()


@pytest.mark.parametrize(
    ("sizes", "fill"),
    [
        ([[128, 192], [192, 128]], True),
        ([[64, 96]], True),  # twice as large once resized
        ([[128, 180]], True),  # 180 pixels, padded to 192
        ([[128, 192], [128, 150]], False),  # 160 of 192
        ([[128, 128]], False),  # a square on a portrait canvas
    ],
)
def test_which_images_fill_their_canvases(sizes: list[list[int]], fill: bool) -> None:
    assert CanvasPreparation(128, 192).fills_canvas(np.array(sizes)) == fill
