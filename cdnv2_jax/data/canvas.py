"""Resize and flip images and boxes, and place images on a canvas, so that batches have one of two shapes.

The rules are those of mmdetection 2.11. Canvases are padded with zeros on the right and at the bottom. After
normalising on the device the padding is zeroed again, because mmdetection pads after normalising.
"""

import dataclasses
from typing import Any

import cv2
import numpy as np

from cdnv2_jax.data.preparation import IMAGENET, check_statistics, normalise

SHORT_SIDE, LONG_SIDE = 800, 1333
"""An image is resized until its shorter or its longer side has this many pixels, whichever is reached first."""

MULTIPLE = 32
"""The largest stride of a backbone; the sides of canvases are multiples of it."""


def resized_size(height: int, width: int, short_side: int = SHORT_SIDE, long_side: int = LONG_SIDE) -> tuple[int, int]:
    """Return (height, width) after resizing both with one scale, each rounded separately and at least 1."""
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def is_landscape(height: int, width: int) -> bool:
    """Whether an image belongs on a landscape canvas; a square one counts as portrait."""
    return width > height


def canvas_size(landscape: bool, short_side: int = SHORT_SIDE, long_side: int = LONG_SIDE) -> tuple[int, int]:
    """Return (height, width) of the canvas for all resized images of an orientation: 800 × 1344 or 1344 × 800."""
    low, high = (-(-side // MULTIPLE) * MULTIPLE for side in (short_side, long_side))
    return (low, high) if landscape else (high, low)


def resize(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Resize an image bilinearly, without antialiasing.

    Args:
      image: uint8 [h, w, 3].
      size: new height and width.

    Returns:
      uint8 [*size, 3], and float32 [2]: the scales of x and of y.
    """
    (height, width), (new_height, new_width) = image.shape[:2], size
    scale = np.array([new_width / width, new_height / height], np.float32)
    if (height, width) == size:
        return image, scale
    return cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR), scale


def scale_boxes(boxes: np.ndarray, scale: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale boxes (x1, y1, x2, y2) by `scale` [2] of x and y and clip them to `size` (h, w): float32 [n, 4]."""
    height, width = size
    limit = np.array([width, height, width, height], np.float32)
    return np.clip(boxes.astype(np.float32) * np.tile(scale, 2).astype(np.float32), 0, limit)


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Mirror boxes (x1, y1, x2, y2) left to right in an image of this width: [n, 4]."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)


def on_canvas(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return [*size, 3], of the image's dtype, with the image at the top left and zeros elsewhere."""
    canvas = np.zeros((*size, 3), image.dtype)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas


KEY = "usage"
LARGEST_SIDE = 8192


@dataclasses.dataclass(frozen=True)
class CanvasPreparation:
    """Preprocessing for evaluation and export: resize, normalise, place at the top left of a canvas of zeros.

    Attributes:
      short_side: length of the shorter side after resizing, in pixels, unless the longer side reaches its limit first.
      long_side: limit of the longer side, in pixels.
      mean: mean of each channel, for pixels in [0, 1].
      std: standard deviation of each channel, for pixels in [0, 1].
    """

    short_side: int = SHORT_SIDE
    long_side: int = LONG_SIDE
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]

    def __post_init__(self):
        sides = (self.short_side, self.long_side)
        if not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides):
            raise ValueError(f"invalid sides {sides}")
        check_statistics(self)

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the canvas for landscape images."""
        return canvas_size(True, self.short_side, self.long_side)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for a checkpoint's metadata, stored as {"usage": preparation.to_json()}."""
        return dataclasses.asdict(self)

    def canvas_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the canvas for an image of that size."""
        return canvas_size(is_landscape(height, width), self.short_side, self.long_side)

    def fills_canvas(self, sizes: np.ndarray) -> bool:
        """Whether all images, of sizes [n, 2] (height, width), fill their canvas when resized and padded to 32."""
        for height, width in np.unique(sizes, axis=0).tolist():
            resized = resized_size(height, width, self.short_side, self.long_side)
            if tuple(-(-side // MULTIPLE) * MULTIPLE for side in resized) != self.canvas_of(height, width):
                return False
        return True

    def resized(self, image: np.ndarray, canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Resize an image: uint8 [h, w, 3] → (uint8, resized; float32 [2], the scales of x and of y).

        An image that would be larger than the canvas, such as a portrait on a landscape one, is shrunk to fit.
        """
        height, width = resized_size(image.shape[0], image.shape[1], self.short_side, self.long_side)
        shrink = min(1.0, canvas[0] / height, canvas[1] / width)
        return resize(image, (max(int(height * shrink), 1), max(int(width * shrink), 1)))

    def __call__(self, image: np.ndarray, canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Prepare an image: uint8 [h, w, 3] → (float32 [*canvas, 3]; int32 [2], the image's height and width on it)."""
        resized, _ = self.resized(image, canvas)
        placed = on_canvas(normalise(resized, self.mean, self.std), canvas)
        return placed, np.array(resized.shape[:2], np.int32)
