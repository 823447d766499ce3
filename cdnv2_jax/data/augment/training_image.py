"""One sample's image → what the network trains on, all chance from one generator."""

import dataclasses
import functools
from typing import Literal, NamedTuple

import cv2
import numpy as np

from cdnv2_jax.data.augment.erasing import Rectangle, draw_rectangle
from cdnv2_jax.data.augment.flip import draw_flip, flip
from cdnv2_jax.data.augment.rand_augment import apply_operation, draw_operations, parse_rand_augment
from cdnv2_jax.data.augment.random_resized_crop import crop_and_resize, draw_box
from cdnv2_jax.data.augment.shift import draw_shift, shift
from cdnv2_jax.data.decode import decode_fast
from cdnv2_jax.errors import UserError

cv2.setNumThreads(0)  # many processes do this side by side, and threads of each would only get in the way

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
    image: bytes | np.ndarray, name: str, rng: np.random.Generator, augmentation: Augmentation
) -> TrainingImage:
    """Decodes, crops, flips and applies RandAugment; the same for the same image and state of `rng`.

    Args:
      image: an encoded file, or pixels, uint8 [h, w, 3].
      name: what a message calls it.

    Raises:
      BrokenImage: it cannot be decoded.
      UserError: it has not the size that `crop` wants.
    """
    pixels = decode_fast(image, name) if isinstance(image, bytes) else image
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
