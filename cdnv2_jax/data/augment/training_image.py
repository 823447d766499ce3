"""Mirroring left and right."""

import dataclasses
import functools
import math
from typing import Literal, NamedTuple

import cv2
import numpy as np

from cdnv2_jax.data.augment.crops import crop_and_resize, draw_box, draw_shift, shift
from cdnv2_jax.data.augment.rand_augment import apply_operation, draw_operations, parse_rand_augment
from cdnv2_jax.errors import UserError


def draw_flip(rng: np.random.Generator) -> bool:
    """True for one image in two."""
    return bool(rng.random() < 0.5)


def flip(image: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] with left and right exchanged."""
    return cv2.flip(image, 1)


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


_parsed = functools.cache(parse_rand_augment)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images, in the order of the attributes.

    Attributes:
      image_size: side of what comes out, pixels.
      crop: "random_resized"; "shift": moved by up to `shift` pixels each way, black coming in; "none". The latter two
        want images of that size.
      interpolation: of the random resized crop; "random": bilinear or bicubic, evenly.
      flip: left and right exchanged in one image of two.
      rand_augment: as timm writes it ("rand-m9-mstd0.5"); "" for none.
      erase_probability: of random erasing, whose rectangle is only drawn here: it comes after normalising.
    """

    image_size: int
    crop: Literal["none", "shift", "random_resized"] = "none"
    shift: int = 0
    interpolation: Literal["random", "bilinear", "bicubic"] = "random"
    flip: bool = False
    rand_augment: str = ""
    erase_probability: float = 0.0

    def __post_init__(self):
        if self.rand_augment:
            _parsed(self.rand_augment)


class TrainingImage(NamedTuple):
    """Attributes: pixels, uint8 [s, s, 3]; the rectangle to erase once they are normalised, of no size for none."""

    pixels: np.ndarray
    erased: Rectangle


def training_image(
    pixels: np.ndarray, name: str, rng: np.random.Generator, augmentation: Augmentation
) -> TrainingImage:
    """Crops, flips and applies RandAugment; the same for the same pixels and state of `rng`.

    Args:
      pixels: uint8 [h, w, 3], not written to.
      name: what a message calls the image.
      rng: whose next random numbers are used.
      augmentation: what to do.

    Raises:
      UserError: the image does not have the size that `crop` needs.
    """
    pixels = _cropped(pixels, name, rng, augmentation)
    if augmentation.flip and draw_flip(rng):
        pixels = flip(pixels)
    if augmentation.rand_augment:
        for operation in draw_operations(_parsed(augmentation.rand_augment), rng):
            pixels = apply_operation(pixels, operation)
    size = augmentation.image_size
    return TrainingImage(pixels, draw_rectangle(size, size, augmentation.erase_probability, rng))


def _cropped(pixels: np.ndarray, name: str, rng: np.random.Generator, augmentation: Augmentation) -> np.ndarray:
    (height, width), size = pixels.shape[:2], augmentation.image_size
    if augmentation.crop == "random_resized":
        box = draw_box(height, width, rng)
        return crop_and_resize(pixels, box, size, _interpolation(augmentation, rng))
    if (height, width) != (size, size):
        raise UserError(
            f"{name} is {width} × {height} pixels, not {size} × {size}: resize it, or crop with 'random_resized'"
        )
    return shift(pixels, *draw_shift(augmentation.shift, rng)) if augmentation.crop == "shift" else pixels


def _interpolation(augmentation: Augmentation, rng: np.random.Generator) -> Literal["bilinear", "bicubic"]:
    if augmentation.interpolation == "random":
        return "bicubic" if rng.random() < 0.5 else "bilinear"
    return augmentation.interpolation
