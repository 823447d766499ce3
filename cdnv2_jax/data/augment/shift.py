"""Moving by a few pixels: padding with black and cropping at random, as CIFAR's recipe has it."""

import numpy as np


def draw_shift(most: int, rng: np.random.Generator) -> tuple[int, int]:
    """(down, right), each uniform in −most … most pixels."""
    down, right = rng.integers(-most, most, size=2, endpoint=True)
    return int(down), int(right)


def shift(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Moves uint8 [h, w, 3] by so many pixels; what comes in from outside is black."""
    height, width = image.shape[:2]
    moved = np.zeros_like(image)
    if abs(down) < height and abs(right) < width:
        to_rows, from_rows = _overlap(down, height)
        to_columns, from_columns = _overlap(right, width)
        moved[to_rows, to_columns] = image[from_rows, from_columns]
    return moved


def _overlap(distance: int, side: int) -> tuple[slice, slice]:
    """Where along one side the image remains in sight: after moving, before."""
    return slice(max(distance, 0), side + min(distance, 0)), slice(max(-distance, 0), side - max(distance, 0))
