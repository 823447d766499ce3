"""Training images: crop or shift, flip, RandAugment, and the rectangle of random erasing."""

import dataclasses
import functools
import math
from typing import Literal, NamedTuple

import cv2
import numpy as np

from cdnv2_jax.data.rand_augment import apply_operation, draw_operations, parse_rand_augment
from cdnv2_jax.data.random_crop import Rectangle, crop_and_resize, draw_box, scaled
from cdnv2_jax.errors import UserError

_parsed = functools.cache(parse_rand_augment)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images, applied in the order of the attributes.

    Attributes:
      image_size: side of the result, in pixels.
      crop: "random_resized"; "shift" by up to `shift` pixels each way, filled with black; or "none". The latter two
        need images of size `image_size`.
      shift: largest shift, in pixels.
      interpolation: interpolation of the random resized crop; "random" is bilinear or bicubic with equal probability.
      flip: mirror each image with probability ½.
      rand_augment: policy in timm's notation ("rand-m9-mstd0.5"); "" for none.
      erase_probability: probability of random erasing. Only the rectangle is chosen here; noise follows normalising.
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
    """An augmented image.

    Attributes:
      pixels: uint8 [s, s, 3].
      erased: the rectangle to erase after normalising; `NOTHING` for none.
    """

    pixels: np.ndarray
    erased: Rectangle


def training_image(
    pixels: np.ndarray,
    name: str,
    rng: np.random.Generator,
    augmentation: Augmentation,
    full_size: tuple[int, int] | None = None,
) -> TrainingImage:
    """Augment an image; the result is a function of the arguments and the state of `rng`.

    Args:
      pixels: uint8 [h, w, 3], not written to.
      name: name of the image in messages.
      rng: source of the random numbers.
      augmentation: the augmentation to apply.
      full_size: (height, width) of the image that `pixels` are a shrunk copy of, which gets the same random crop.

    Raises:
      UserError: the image does not have the size that `crop` needs.
    """
    pixels = _cropped(pixels, name, rng, augmentation, full_size)
    if augmentation.flip and draw_flip(rng):
        pixels = flip(pixels)
    if augmentation.rand_augment:
        for operation in draw_operations(_parsed(augmentation.rand_augment), rng):
            pixels = apply_operation(pixels, operation)
    size = augmentation.image_size
    return TrainingImage(pixels, draw_rectangle(size, size, augmentation.erase_probability, rng))


def _cropped(
    pixels: np.ndarray,
    name: str,
    rng: np.random.Generator,
    augmentation: Augmentation,
    full_size: tuple[int, int] | None,
) -> np.ndarray:
    (height, width), size = pixels.shape[:2], augmentation.image_size
    if augmentation.crop == "random_resized":
        box = draw_box(*(full_size or (height, width)), rng)
        if full_size:
            box = scaled(box, full_size, (height, width))
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


def draw_flip(rng: np.random.Generator) -> bool:
    """Return True with probability ½."""
    return bool(rng.random() < 0.5)


def flip(image: np.ndarray) -> np.ndarray:
    """Mirror uint8 [h, w, 3] left to right."""
    return cv2.flip(image, 1)


def draw_shift(most: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw a shift (down, right), each uniform in −most … most pixels."""
    down, right = rng.integers(-most, most, size=2, endpoint=True)
    return int(down), int(right)


def shift(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Shift uint8 [h, w, 3] by that many pixels, filling with black."""
    height, width = image.shape[:2]
    moved = np.zeros_like(image)
    if abs(down) < height and abs(right) < width:
        to_rows, from_rows = _overlap(down, height)
        to_columns, from_columns = _overlap(right, width)
        moved[to_rows, to_columns] = image[from_rows, from_columns]
    return moved


def _overlap(distance: int, side: int) -> tuple[slice, slice]:
    """Return the part of one side that stays visible: after shifting, before."""
    return slice(max(distance, 0), side + min(distance, 0)), slice(max(-distance, 0), side - max(distance, 0))


LEAST_AREA, MOST_AREA = 0.02, 1 / 3
LEAST_RATIO, MOST_RATIO = 0.3, 1 / 0.3
TRIES = 10
NOTHING = Rectangle(0, 0, 0, 0)


def draw_rectangle(height: int, width: int, probability: float, rng: np.random.Generator) -> Rectangle:
    """Draw a rectangle in an image [height, width] with `probability`, else return `NOTHING`.

    Its fraction of the area is uniform in 0.02 … ⅓, its ratio of height to width log-uniform in 0.3 … 1 / 0.3. If it
    does not fit, it is resampled; if none of ten fits, the result is `NOTHING`.
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
    """Replace a rectangle of a normalised image, float32 [h, w, 3], with independent standard normal noise."""
    top, left, height, width = rectangle
    if not (height and width):
        return image
    erased = image.copy()
    noise = rng.standard_normal((height, width, image.shape[2]), np.float32)
    erased[top : top + height, left : left + width] = noise
    return erased
