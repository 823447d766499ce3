"""RandAugment's operations, colour and geometry: uint8 [h, w, 3] → uint8 [h, w, 3], as Pillow does them."""

import functools
from typing import Literal

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

LEVELS = np.arange(256)
JUST_BELOW_HALF = 0.499
"""Taken away before OpenCV rounds, to cut off fractions as Pillow does and leave whole numbers alone."""

SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
"""Pillow's ImageFilter.SMOOTH."""


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretches every channel to 0 … 255."""
    tables = []
    for channel in cv2.split(image):
        lowest, highest = int(channel.min()), int(channel.max())
        scale = 255 / (highest - lowest) if highest > lowest else 1.0
        tables.append(LEVELS * scale - lowest * scale if highest > lowest else LEVELS)
    return _look_up(image, np.stack(tables, axis=1))


def equalize(image: np.ndarray) -> np.ndarray:
    """Makes every channel's histogram as flat as a table can."""
    return _look_up(image, np.stack([_equalizing(channel) for channel in cv2.split(image)], axis=1))


def _equalizing(channel: np.ndarray) -> np.ndarray:
    counts = cv2.calcHist([channel], [0], None, [256], [0, 256]).astype(np.int64).ravel()
    present = counts[counts > 0]
    step = int(counts.sum() - present[-1]) // 255  # pixels per level, the last level apart
    if len(present) < 2 or not step:
        return LEVELS
    before = np.cumsum(counts) - counts
    return (step // 2 + before) // step


def invert(image: np.ndarray) -> np.ndarray:
    """255 − level."""
    return cv2.bitwise_not(image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the upper `bits` (0 … 8) of every level."""
    return _look_up(image, LEVELS & -(1 << (8 - bits)))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts levels of `threshold` (0 … 256) and above."""
    return _look_up(image, np.where(threshold > LEVELS, LEVELS, 255 - LEVELS))


def solarize_add(image: np.ndarray, addend: int) -> np.ndarray:
    """Makes levels below 128 brighter by `addend`."""
    return _look_up(image, np.where(LEVELS < 128, LEVELS + addend, LEVELS))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Between its grey version (factor 0) and itself (1), or beyond."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _blend(grey, image, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Between its mean grey (factor 0) and itself (1), or beyond."""
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return _look_up(image, mean + np.float32(factor) * (LEVELS - mean).astype(np.float32))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Between black (factor 0) and itself (1), or beyond."""
    return _look_up(image, np.float32(factor) * LEVELS.astype(np.float32))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Between its smoothed version (factor 0) and itself (1), or beyond; the outermost pixels stay."""
    smooth = cv2.filter2D(image, -1, SMOOTH)
    smooth[0], smooth[-1], smooth[:, 0], smooth[:, -1] = image[0], image[-1], image[:, 0], image[:, -1]
    return _blend(smooth, image, factor)


def _blend(degenerate: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
    """degenerate + factor · (image − degenerate), fractions cut off."""
    return cv2.addWeighted(image, factor, degenerate, 1 - factor, -JUST_BELOW_HALF)


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Replaces levels by a table [256], or one for every channel [256, 3]: fractions cut off, kept in 0 … 255."""
    return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[:, None])


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
