"""RandAugment's colour operations: uint8 [h, w, 3] → uint8 [h, w, 3], as Pillow's ImageOps and ImageEnhance do them.

All equal Pillow's result but for rounding, one level at most; those that are tables equal it everywhere.
"""

import cv2
import numpy as np

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
