"""Preprocessing of images for evaluation, as one description that is stored with the network."""

import dataclasses
import numbers
from collections.abc import Callable, Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from cdnv2_jax.errors import UserError, shorten

Interpolation = Literal["bilinear", "bicubic"]
PILLOW: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10 = (0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)
CIFAR100 = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
"""Mean and standard deviation of each channel of the training images, for pixels in [0, 1]."""

RESIZE_RATIO = 256 / 224
"""The usual shorter side before the centre crop, relative to the crop."""
LARGEST_SIDE = 4096
"""Largest side of a prepared or a resized image, in pixels."""
MOST_CHANNELS = 512

SMALLEST_STD, LARGEST_STATISTIC = 1e-6, 1000.0
"""Bounds of means and standard deviations, for pixels in [0, 1]."""

MOST_PIXELS = 2**24
"""Larger intermediate images are avoided; only images hundreds of times longer than wide have them."""


@dataclasses.dataclass(frozen=True)
class ImagePreparation:
    """Preprocessing of images for evaluation, prediction and export.

    Evaluation normalises on the device, prediction on the host, with equal results; both use `resized`.

    Prepared images have as many channels as there are means. RGB images become grey for one mean, as Pillow converts
    them, and grey ones RGB for three.

    Attributes:
      size: side of the prepared image, in pixels.
      resize: "centre" (shorter side to `shorter_side`, then the centre crop), or "whole" (the image to size × size; an
        image of that size is unchanged).
      interpolation: interpolation for resizing, antialiased as in Pillow.
      mean: mean of each channel, for pixels in [0, 1].
      std: standard deviation of each channel, for pixels in [0, 1].
      shorter_side: for "centre", in pixels; 0 for size · 256 / 224, rounded.
    """

    size: int
    resize: Literal["centre", "whole"]
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shorter_side: int = 0

    def __post_init__(self):
        if not (type(self.size) is int and 0 < self.size <= LARGEST_SIDE):  # True is an int, too
            raise ValueError(f"invalid size {self.size}")
        if type(self.shorter_side) is not int or (self.shorter_side and not self._crops_inside()):
            raise ValueError(
                f"invalid shorter_side {self.shorter_side}: must be 0, or from {self.size} to {LARGEST_SIDE} with "
                f"a centre crop"
            )
        if self.resize not in ("centre", "whole") or self.interpolation not in tuple(PILLOW):
            raise ValueError(f"invalid resize {self.resize!r} or interpolation {self.interpolation!r}")
        check_statistics(self, channels=min(len(self.mean), MOST_CHANNELS) or 1)

    def _crops_inside(self) -> bool:
        return self.resize == "centre" and self.size <= self.shorter_side <= LARGEST_SIDE

    def at_size(self, size: int) -> "ImagePreparation":
        """Return a copy for another side, its shorter side in proportion; ValueError if the side is not allowed."""
        return dataclasses.replace(self, size=size, shorter_side=round(self.shorter_side * size / self.size))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Resize and normalise an image: uint8 [h, w, c] → float32 [size, size, channels]; UserError for another c."""
        return normalise(self.resized(image), self.mean, self.std)

    def resized(self, image: np.ndarray) -> np.ndarray:
        """Resize an image: uint8 [h, w, c] → uint8 [size, size, channels], not normalised; UserError for another c."""
        image = with_channels(image, len(self.mean))
        if self.resize == "centre":
            shorter = self.shorter_side or round(self.size * RESIZE_RATIO)
            return _resize_and_crop(image, shorter, self.size, self.interpolation)
        if image.shape[:2] == (self.size, self.size):
            return image
        return resize_whole(image, self.size, self.interpolation)


def check_statistics(preparation: object, channels: int = 3) -> None:
    """Convert `mean` and `std` of a frozen dataclass to tuples of floats; raise ValueError if they are invalid."""
    for name in ("mean", "std"):
        values, least = tuple(getattr(preparation, name)), SMALLEST_STD if name == "std" else -LARGEST_STATISTIC
        all_numbers = all(isinstance(value, numbers.Real) and not isinstance(value, bool) for value in values)
        if (
            len(values) != channels
            or not all_numbers
            or not all(least <= value <= LARGEST_STATISTIC for value in values)
        ):
            raise ValueError(f"invalid {name} {shorten([str(value) for value in values])}")
        object.__setattr__(preparation, name, tuple(float(value) for value in values))


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert grey to RGB or RGB to grey if need be: uint8 [h, w, c] → [h, w, channels]; UserError for another c."""
    found = image.shape[2]
    if found == channels:
        return image
    if (found, channels) == (1, 3):
        return np.repeat(image, 3, axis=2)
    if (found, channels) == (3, 1):
        return np.array(Image.fromarray(image).convert("L"))[..., None]
    raise UserError(
        f"an image has {found} channels, the network reads {channels}: give arrays [height, width, {channels}]"
    )


def _resize_and_crop(image: np.ndarray, shorter: int, size: int, interpolation: Interpolation) -> np.ndarray:
    """Resize the shorter side as Pillow does and crop the centre: uint8 [size, size, channels].

    Rounding follows torchvision: the longer side is truncated to whole pixels, the crop's corner rounded half to even.

    Args:
      image: uint8 [h, w, channels].
      shorter: length of the shorter side after resizing, in pixels, at least `size`.
      size: side of the crop, in pixels.
      interpolation: interpolation for resizing.
    """
    height, width = image.shape[:2]
    scaled = (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    if scaled[0] * scaled[1] > MOST_PIXELS:
        return _crop_of_resized(image, scaled, (left, top), size, interpolation)
    area = (left, top, left + size, top + size)
    return _by_pillow(image, lambda whole: whole.resize(scaled, PILLOW[interpolation]).crop(area))


def _crop_of_resized(
    image: np.ndarray, scaled: tuple[int, int], corner: tuple[int, int], size: int, interpolation: Interpolation
) -> np.ndarray:
    """Resize only what the crop shows.

    The result is within a level of resizing the whole image first, or more where the filter overshoots black or white,
    because Pillow clips after each axis and chooses which comes first.
    """
    box: list[float] = []
    for side, longer, first in zip(image.shape[1::-1], scaled, corner, strict=True):
        scale = side / longer
        reach = 2 * max(scale, 1) + 1  # of a bicubic filter
        start = max(int(first * scale - reach), 0)
        image = image[:, start : int((first + size) * scale + reach) + 1].swapaxes(0, 1)
        box += [first * scale - start, (first + size) * scale - start]
    left, right, top, bottom = box
    part, area = np.ascontiguousarray(image), (left, top, right, bottom)
    return _by_pillow(part, lambda picture: picture.resize((size, size), PILLOW[interpolation], area))


def resize_whole(image: np.ndarray, size: int, interpolation: Interpolation) -> np.ndarray:
    """Resize an image as Pillow does: uint8 [h, w, channels] → uint8 [size, size, channels]."""
    height, width = image.shape[:2]
    sizes = [(size, size)]
    if height * size > MOST_PIXELS:  # older Pillows would start by making all rows `size` wide
        sizes.insert(0, (width, size))
    for wanted in sizes:
        image = _by_pillow(image, lambda picture, wanted=wanted: picture.resize(wanted, PILLOW[interpolation]))
    return image


def _by_pillow(image: np.ndarray, work: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Apply `work` to an image as Pillow's or, unless it is RGB, to each channel: a fourth would be transparency."""
    if image.shape[2] == 3:
        return np.array(work(Image.fromarray(image)))
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    return np.stack([np.array(work(Image.fromarray(plane))) for plane in planes], axis=2)


def normalise(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Normalise an image: uint8 [h, w, c] → float32 [h, w, c], (level / 255 − mean) / std of each channel.

    A table lookup gives exactly the same result as float32 arithmetic, in a tenth of the time.
    """
    levels = np.arange(256, dtype=np.float32)[:, None] / 255
    table = (levels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    if image.shape[2] != 3:
        return table[image, np.arange(image.shape[2])]
    return cv2.LUT(image, table[:, None])
