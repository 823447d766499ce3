"""Random erasing (Zhong et al. 2020), timm's "pixel" kind with one rectangle."""

import math
from typing import NamedTuple

import numpy as np

LEAST_AREA, MOST_AREA = 0.02, 1 / 3
LEAST_RATIO, MOST_RATIO = 0.3, 1 / 0.3
TRIES = 10


class Rectangle(NamedTuple):
    """Pixels of an image; of no height and width: nothing."""

    top: int
    left: int
    height: int
    width: int


NOTHING = Rectangle(0, 0, 0, 0)


def draw_rectangle(height: int, width: int, probability: float, rng: np.random.Generator) -> Rectangle:
    """With `probability`, part of an image [height, width], else `NOTHING`.

    Its share of the area is uniform in 0.02 … ⅓, its height to its width log-uniform in 0.3 … 1 / 0.3; what does not
    fit inside is drawn anew, ten times at most.
    """
    if rng.random() >= probability:
        return NOTHING
    for _ in range(TRIES):
        area = rng.uniform(LEAST_AREA, MOST_AREA) * height * width
        ratio = math.exp(rng.uniform(math.log(LEAST_RATIO), math.log(MOST_RATIO)))
        tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if tall < height and wide < width:
            top, left = rng.integers((height - tall + 1, width - wide + 1))
            return Rectangle(int(top), int(left), tall, wide) if tall and wide else NOTHING
    return NOTHING


def erase(image: np.ndarray, rectangle: Rectangle, rng: np.random.Generator) -> np.ndarray:
    """Normalised float32 [h, w, 3] with standard normal noise, of each pixel and channel its own, in the rectangle."""
    top, left, height, width = rectangle
    if not (height and width):
        return image
    erased = image.copy()
    noise = rng.standard_normal((height, width, image.shape[2]), np.float32)
    erased[top : top + height, left : left + width] = noise
    return erased
