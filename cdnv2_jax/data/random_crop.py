"""Random resized crops of training images, with antialiased resizing."""

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np

from cdnv2_jax.data.preparation import Interpolation, resize_whole

MOST_SHRUNK = 3.0
"""Largest scale that is filtered directly; larger scales would need long filters."""

SCALE_STEPS = 32
"""Filters are fitted once for each scale, in steps of 1 / 32."""

PILLOW_CUBIC, OPENCV_CUBIC = -0.5, -0.75
"""The parameter a of cubic convolution (Keys 1981)."""


def resize(image: np.ndarray, size: int, resample: Interpolation) -> np.ndarray:
    """Resize an image: uint8 [h, w, 3] → uint8 [size, size, 3].

    On photographs it differs from Pillow's result by about 1 level of 255 (root mean square over random crops; 5 when
    halving without antialiasing), by 2 when shrinking to less than a third, and by at most one level when enlarging
    bilinearly. Halving drops an odd last row or column, as if the crop were that much smaller.
    """
    while max(image.shape[:2]) > MOST_SHRUNK * size and min(image.shape[:2]) >= 2 * size:
        image = _halved(image)
    height, width = image.shape[:2]
    if max(height, width) > MOST_SHRUNK * size:  # long and narrow
        return resize_whole(image, size, resample)
    along_x, along_y = _filter_for(width / size, resample), _filter_for(height / size, resample)
    if len(along_x) > 1 or len(along_y) > 1:
        image = cv2.sepFilter2D(image, -1, along_x, along_y, borderType=cv2.BORDER_REPLICATE)
    method = cv2.INTER_CUBIC if resample == "bicubic" else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method)


def _halved(image: np.ndarray) -> np.ndarray:
    """Average 2 × 2 pixels; an odd last row or column is dropped."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    return cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)


def _filter_for(scale: float, resample: Interpolation) -> np.ndarray:
    return _fitted(max(round(scale * SCALE_STEPS), SCALE_STEPS), resample)


@functools.cache
def _fitted(steps: int, resample: Interpolation) -> np.ndarray:
    """Fit an odd number of symmetric weights with sum 1, by least squares over all positions between pixels."""
    scale = steps / SCALE_STEPS
    if resample == "bilinear":
        wide, narrow, reach = _triangle, _triangle, math.ceil(scale - 1)
    else:
        wide, narrow, reach = _pillow_cubic, _opencv_cubic, math.ceil(2 * scale - 2) + 1
    if not reach:
        return np.ones(1)
    x = np.linspace(-2 * scale - 2, 2 * scale + 2, 801)
    pairs = np.stack([narrow(x - k) + narrow(x + k) - 2 * narrow(x) for k in range(1, reach + 1)], axis=1)
    weights = np.linalg.lstsq(pairs, wide(x / scale) / scale - narrow(x), rcond=None)[0]
    return np.concatenate([weights[::-1], [1 - 2 * weights.sum()], weights])


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x**2 + 1, a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


_pillow_cubic = functools.partial(_cubic, a=PILLOW_CUBIC)
_opencv_cubic = functools.partial(_cubic, a=OPENCV_CUBIC)


LEAST_AREA, MOST_AREA = 0.08, 1.0
LEAST_RATIO, MOST_RATIO = 3 / 4, 4 / 3
TRIES = 10


class Rectangle(NamedTuple):
    """A rectangle of an image, in pixels; empty if height and width are 0."""

    top: int
    left: int
    height: int
    width: int


def draw_box(height: int, width: int, rng: np.random.Generator) -> Rectangle:
    """Draw a crop of an image [height, width], at least one pixel.

    Its fraction of the area is uniform in 0.08 … 1, its ratio of width to height log-uniform in ¾ … 4⁄3. If it does not
    fit, it is resampled; if none of ten fits, the result is `central_box`.
    """
    for _ in range(TRIES):
        area = rng.uniform(LEAST_AREA, MOST_AREA) * height * width
        ratio = math.exp(rng.uniform(math.log(LEAST_RATIO), math.log(MOST_RATIO)))
        # At least one pixel: the official code would use an empty crop of a tiny image.
        wide, tall = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
        if wide <= width and tall <= height:
            top, left = rng.integers((height - tall + 1, width - wide + 1))
            return Rectangle(int(top), int(left), tall, wide)
    return central_box(height, width)


def central_box(height: int, width: int) -> Rectangle:
    """Return the largest central crop with a ratio of width to height in ¾ … 4⁄3."""
    tall = min(height, round(width / LEAST_RATIO))
    wide = min(width, round(height * MOST_RATIO))
    return Rectangle((height - tall) // 2, (width - wide) // 2, tall, wide)


def scaled(box: Rectangle, size: tuple[int, int], to: tuple[int, int]) -> Rectangle:
    """Return the part of an image of (height, width) `to` that `box` is of one of `size`, at least one pixel."""
    edges = []
    for start, length, before, after in zip(box[:2], box[2:], size, to, strict=True):
        first = min(round(start * after / before), after - 1)
        edges.append((first, max(round((start + length) * after / before) - first, 1)))
    (top, height), (left, width) = edges
    return Rectangle(top, left, height, width)


def crop_and_resize(image: np.ndarray, box: Rectangle, size: int, resample: Interpolation) -> np.ndarray:
    """Crop uint8 [h, w, 3] to `box` and resize it, without its surroundings, to uint8 [size, size, 3]; see `resize`."""
    top, left, height, width = box
    return resize(image[top : top + height, left : left + width], size, resample)
