"""Antialiased resizing of training images, nearly as Pillow does it and much faster.

Pillow stretches its interpolation kernel by the scale when it shrinks. OpenCV does not, so a short filter runs before
it, chosen such that both together come nearest to Pillow's kernel. Much larger images are halved first.
"""

import functools
import math

import cv2
import numpy as np
from PIL import Image

from cdnv2_jax.data.augment.geometry import PILLOW, Resample

MOST_SHRUNK = 3.0
"""Filters would be long for scales above that."""

SCALE_STEPS = 32
"""Filters are worked out for scales in steps of 1 / 32, once each."""

PILLOW_CUBIC, OPENCV_CUBIC = -0.5, -0.75
"""The parameter a of cubic convolution (Keys 1981)."""


def resize(image: np.ndarray, size: int, resample: Resample) -> np.ndarray:
    """uint8 [h, w, 3] → uint8 [size, size, 3].

    On photographs it differs from Pillow's result by about 1 level of 255 (root mean square over random crops; 5 when
    halving without antialiasing), 2 when shrinking to less than a third; bilinear enlarging by one level at most. In
    halving, the last row or column of an odd number is left out, as if the crop had been that much smaller.
    """
    while max(image.shape[:2]) > MOST_SHRUNK * size and min(image.shape[:2]) >= 2 * size:
        image = _halved(image)
    height, width = image.shape[:2]
    if max(height, width) > MOST_SHRUNK * size:  # long and narrow
        return np.array(Image.fromarray(image).resize((size, size), PILLOW[resample]))
    along_x, along_y = _filter_for(width / size, resample), _filter_for(height / size, resample)
    if len(along_x) > 1 or len(along_y) > 1:
        image = cv2.sepFilter2D(image, -1, along_x, along_y, borderType=cv2.BORDER_REPLICATE)
    method = cv2.INTER_CUBIC if resample == "bicubic" else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method)


def _halved(image: np.ndarray) -> np.ndarray:
    """Means of 2 × 2 pixels; the last of an odd number is left out."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    return cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)


def _filter_for(scale: float, resample: Resample) -> np.ndarray:
    return _fitted(max(round(scale * SCALE_STEPS), SCALE_STEPS), resample)


@functools.cache
def _fitted(steps: int, resample: Resample) -> np.ndarray:
    """Odd number of symmetric weights of sum 1: least squares over all positions between pixels."""
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
