"""Preparing one image for evaluation exactly as the official code does."""

from typing import Literal

import numpy as np
from PIL import Image

RESIZE_RATIO = 256 / 224  # the shorter side before the crop, relative to the crop


def evaluation_image(image: np.ndarray, size: int, interpolation: Literal["bilinear", "bicubic"]) -> np.ndarray:
    """Resizes the shorter side to size · 256 / 224 as Pillow does and crops the centre: uint8 [size, size, 3].

    Rounding follows torchvision: the longer side is cut to whole pixels, the crop's corner rounded to even.

    Args:
      image: uint8 [h, w, 3].
    """
    height, width = image.shape[:2]
    shorter = round(size * RESIZE_RATIO)
    scaled = (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    resized = Image.fromarray(image).resize(scaled, method)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return np.array(resized.crop((left, top, left + size, top + size)))
