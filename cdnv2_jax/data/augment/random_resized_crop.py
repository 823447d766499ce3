"""Cropping a random part and resizing it, as torchvision's and timm's RandomResizedCrop do."""

import math
from typing import NamedTuple

import numpy as np

from cdnv2_jax.data.augment.geometry import Resample
from cdnv2_jax.data.augment.resize import resize

LEAST_AREA, MOST_AREA = 0.08, 1.0
LEAST_RATIO, MOST_RATIO = 3 / 4, 4 / 3
TRIES = 10


class Box(NamedTuple):
    """Pixels of an image."""

    top: int
    left: int
    height: int
    width: int


def draw_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """Part of an image [height, width], at least one pixel.

    Its share of the area is uniform in 0.08 … 1, its width to its height log-uniform in ¾ … 4⁄3; what does not fit
    inside is drawn anew. After ten times it is the largest part in the middle with a ratio in that range.
    """
    for _ in range(TRIES):
        area = rng.uniform(LEAST_AREA, MOST_AREA) * height * width
        ratio = math.exp(rng.uniform(math.log(LEAST_RATIO), math.log(MOST_RATIO)))
        # At least one pixel, where the official code would go on with an empty crop of a tiny image.
        wide, tall = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
        if wide <= width and tall <= height:
            top, left = rng.integers((height - tall + 1, width - wide + 1))
            return Box(int(top), int(left), tall, wide)
    return central_box(height, width)


def central_box(height: int, width: int) -> Box:
    """The largest part in the middle whose width to its height is in ¾ … 4⁄3."""
    tall = min(height, round(width / LEAST_RATIO))
    wide = min(width, round(height * MOST_RATIO))
    return Box((height - tall) // 2, (width - wide) // 2, tall, wide)


def crop_and_resize(image: np.ndarray, box: Box, size: int, resample: Resample) -> np.ndarray:
    """The part `box` of uint8 [h, w, 3], seeing nothing of what is around it: uint8 [size, size, 3]; see `resize`."""
    top, left, height, width = box
    return resize(image[top : top + height, left : left + width], size, resample)
