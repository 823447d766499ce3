"""RandAugment's geometric operations: uint8 [h, w, 3] → uint8 [h, w, 3], as Pillow's Image.transform does them.

What comes in from outside is filled with the mean colour. Rotating is Pillow's own; shearing and translating move
every row (or column) by an amount of its own, so one-dimensional interpolation does, in a third of the time or less,
and gives Pillow's result but for rare differences of one level.
"""

import functools
from typing import Literal

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

Resample = Literal["bilinear", "bicubic"]

FILL = (124, 116, 104)
"""The mean colour of ImageNet."""

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

ROUNDING_ERROR = 1e-4
"""Of float32 sums; added before fractions are cut off, so that a flat area keeps its level."""


def rotate(image: np.ndarray, degrees: float, resample: Resample) -> np.ndarray:
    """Turns it about its centre, counter-clockwise."""
    return np.array(Image.fromarray(image).rotate(degrees, PILLOW[resample], fillcolor=FILL))


def shear_x(image: np.ndarray, factor: float, resample: Resample) -> np.ndarray:
    """Moves each row to the left by `factor` times its distance from the top."""
    return _move_rows(image, factor * (np.arange(len(image)) + 0.5), resample)


def shear_y(image: np.ndarray, factor: float, resample: Resample) -> np.ndarray:
    """Moves each column up by `factor` times its distance from the left."""
    return cv2.transpose(shear_x(cv2.transpose(image), factor, resample))


def translate_x(image: np.ndarray, share: float, resample: Resample) -> np.ndarray:
    """Moves it to the left by `share` of its width."""
    height, width = image.shape[:2]
    return _move_rows(image, np.full(height, share * width), resample)


def translate_y(image: np.ndarray, share: float, resample: Resample) -> np.ndarray:
    """Moves it up by `share` of its height."""
    return cv2.transpose(translate_x(cv2.transpose(image), share, resample))


def _move_rows(image: np.ndarray, distances: np.ndarray, resample: Resample) -> np.ndarray:
    """Moves row y to the left by distances[y] pixels, of any sign and size."""
    height, width = image.shape[:2]
    whole = np.floor(distances)
    weights = _weights((distances - whole).astype(np.float32), resample)
    taps = len(weights)
    # Neighbours of the outermost pixels are these themselves; rows moved out of sight altogether are filled below.
    margin = int(min(np.abs(whole).max(), width)) + 2
    padded = cv2.copyMakeBorder(image, 0, 0, margin, margin, cv2.BORDER_REPLICATE).reshape(height, -1)
    starts = margin + 1 - taps // 2 + np.clip(whole, -width, width).astype(int)
    rows = sliding_window_view(padded, 3 * (width + taps - 1), axis=1)[np.arange(height), 3 * starts]
    neighbours = sliding_window_view(rows.astype(np.float32), 3 * width, axis=1)[:, ::3]
    moved = np.einsum("ty,ytx->yx", weights, neighbours) + np.float32(ROUNDING_ERROR)
    pixels = np.clip(moved, 0, 255).astype(np.uint8).reshape(image.shape)
    from_x = np.arange(width) + 0.5 + distances[:, None]
    inside = (from_x >= 0) & (from_x < width)
    return cv2.copyTo(pixels, inside.astype(np.uint8), _blank(height, width).copy())


@functools.lru_cache(maxsize=2)
def _blank(height: int, width: int) -> np.ndarray:
    # Kept because NumPy takes as long to fill an image with three numbers as for everything else here.
    return np.full((height, width, 3), FILL, np.uint8)


def _weights(fraction: np.ndarray, resample: Resample) -> np.ndarray:
    """[2 or 4, rows]: of the neighbours of points that lie `fraction` of a pixel right of one (a = −1 if bicubic)."""
    t = fraction
    if resample == "bilinear":
        return np.stack([1 - t, t])
    square, cube = t**2, t**3
    return np.stack([-t + 2 * square - cube, 1 - 2 * square + cube, t + square - cube, -square + cube])
