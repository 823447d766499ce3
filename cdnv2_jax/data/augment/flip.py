"""Mirroring left and right."""

import cv2
import numpy as np


def draw_flip(rng: np.random.Generator) -> bool:
    """True for one image in two."""
    return bool(rng.random() < 0.5)


def flip(image: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] with left and right exchanged."""
    return cv2.flip(image, 1)
