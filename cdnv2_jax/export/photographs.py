"""Real photographs to try an exported network on: those that scikit-learn ships, and parts of them."""

import functools

import numpy as np
from sklearn.datasets import load_sample_images

SHARES = (1.0, 0.7, 0.45)
"""Of both sides of a photograph that the parts have."""


@functools.cache
def whole_photographs() -> tuple[np.ndarray, ...]:
    """Two images uint8 [427, 640, 3], of a temple and of a flower; not to be written to."""
    return tuple(load_sample_images().images)


def photographs() -> list[np.ndarray]:
    """Eight images uint8 [h, w, 3], between 190 and 640 pixels; not to be written to."""
    return [part for image in whole_photographs() for part in _parts(image)]


def _parts(image: np.ndarray) -> list[np.ndarray]:
    """The whole, its middle, a corner, and the middle mirrored."""
    height, width = image.shape[:2]
    whole, middle, corner = ((int(height * share), int(width * share)) for share in SHARES)
    top, left = (height - middle[0]) // 2, (width - middle[1]) // 2
    centre = image[top : top + middle[0], left : left + middle[1]]
    return [image[: whole[0], : whole[1]], centre, image[: corner[0], : corner[1]], centre[:, ::-1]]
