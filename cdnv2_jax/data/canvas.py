"""Images and boxes resized, flipped and put on a canvas, so that batches have one of two shapes.

The rules are those of mmdetection 2.11. Canvases are padded with zeros at the right and at the bottom. Normalising on
the device is followed by zeroing the padding again, since mmdetection pads after normalising.
"""

import dataclasses
from typing import Any

import cv2
import numpy as np

from cdnv2_jax.data.preparation import IMAGENET, check_statistics, normalise

SHORT_SIDE, LONG_SIDE = 800, 1333
"""An image is resized until its shorter side has the one or its longer side the other, whichever is reached first."""

MULTIPLE = 32
"""The largest stride of a backbone; the sides of canvases are multiples of it."""


def resized_size(height: int, width: int, short_side: int = SHORT_SIDE, long_side: int = LONG_SIDE) -> tuple[int, int]:
    """(height, width) after resizing with one scale for both, each rounded by itself, at least 1."""
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def is_landscape(height: int, width: int) -> bool:
    """Whether an image belongs on a landscape canvas; a square one counts as portrait."""
    return width > height


def canvas_size(landscape: bool, short_side: int = SHORT_SIDE, long_side: int = LONG_SIDE) -> tuple[int, int]:
    """(height, width) of the canvas that holds every resized image of this orientation: 800 × 1344, 1344 × 800."""
    low, high = (-(-side // MULTIPLE) * MULTIPLE for side in (short_side, long_side))
    return (low, high) if landscape else (high, low)


def resize(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear, without antialiasing.

    Args:
      image: uint8 [h, w, 3].
      size: height and width wanted.

    Returns:
      uint8 [*size, 3], and float32 [2]: the scales of x and of y.
    """
    (height, width), (new_height, new_width) = image.shape[:2], size
    scale = np.array([new_width / width, new_height / height], np.float32)
    if (height, width) == size:
        return image, scale
    return cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR), scale


def scale_boxes(boxes: np.ndarray, scale: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [n, 4]: boxes (x1, y1, x2, y2) times `scale` [2] of x and y, clipped to an image of `size` (h, w)."""
    height, width = size
    limit = np.array([width, height, width, height], np.float32)
    return np.clip(boxes.astype(np.float32) * np.tile(scale, 2).astype(np.float32), 0, limit)


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """[n, 4]: boxes (x1, y1, x2, y2) as they lie once left and right of an image of this width are exchanged."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)


def on_canvas(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[*size, 3], of the image's dtype, with the image at the top left and zeros elsewhere."""
    canvas = np.zeros((*size, 3), image.dtype)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas


KEY = "usage"
LARGEST_SIDE = 8192


@dataclasses.dataclass(frozen=True)
class CanvasPreparation:
    """What evaluation and export do to an image: resized, normalised, put at the top left of a canvas of zeros.

    Attributes:
      short_side: an image is scaled until its shorter side has that many pixels,
      long_side: or its longer side that many, whichever is reached first.
      mean: of each channel, for pixels in [0, 1].
      std: of each channel, likewise.
    """

    short_side: int = SHORT_SIDE
    long_side: int = LONG_SIDE
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]

    def __post_init__(self):
        sides = (self.short_side, self.long_side)
        if not all(isinstance(side, int) and 0 < side <= LARGEST_SIDE for side in sides):
            raise ValueError(f"sides {sides}")
        check_statistics(self)

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the canvas for landscape images."""
        return canvas_size(True, self.short_side, self.long_side)

    def to_json(self) -> dict[str, Any]:
        """JSON values, for metadata: {"usage": preparation.to_json()} is what `preparation_of` looks for."""
        return dataclasses.asdict(self)

    def canvas_of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the canvas for an image of that size."""
        return canvas_size(is_landscape(height, width), self.short_side, self.long_side)

    def fills_canvas(self, sizes: np.ndarray) -> bool:
        """Whether every image, of sizes [n, 2] (height, width), covers its canvas once resized, to a multiple of 32."""
        for height, width in np.unique(sizes, axis=0).tolist():
            resized = resized_size(height, width, self.short_side, self.long_side)
            if tuple(-(-side // MULTIPLE) * MULTIPLE for side in resized) != self.canvas_of(height, width):
                return False
        return True

    def resized(self, image: np.ndarray, canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [h, w, 3] → (uint8, resized; float32 [2], the scales of x and of y).

        An image that would be larger than the canvas, such as a portrait on a landscape one, is made to fit.
        """
        height, width = resized_size(image.shape[0], image.shape[1], self.short_side, self.long_side)
        shrink = min(1.0, canvas[0] / height, canvas[1] / width)
        return resize(image, (max(int(height * shrink), 1), max(int(width * shrink), 1)))

    def __call__(self, image: np.ndarray, canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [h, w, 3] → (float32 [*canvas, 3], int32 [2]: height and width of the image on it)."""
        resized, _ = self.resized(image, canvas)
        placed = on_canvas(normalise(resized, self.mean, self.std), canvas)
        return placed, np.array(resized.shape[:2], np.int32)
