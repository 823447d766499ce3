"""scikit-learn's handwritten digits: 1,797 real 8×8 images that come with the package."""

from typing import cast

import numpy as np

from cdnv2_jax.errors import UserError

SIDE = 8
DIGITS = 10  # classes
TEST_IMAGES = 360
SPLIT_SEED = 0


def digits_as_images(side: int) -> tuple[np.ndarray, np.ndarray]:
    """All digits in their published order: images float32 [1797, side, side, 3] in [−1, 1], labels int32 [1797].

    Each pixel becomes a square of side / 8 pixels, each grey value three equal channels.
    """
    from sklearn.datasets import load_digits

    if side % SIDE:
        raise UserError(f"digits are {SIDE}×{SIDE}: image_size must be a multiple of {SIDE}, got {side}")
    pixels, labels = cast(tuple[np.ndarray, np.ndarray], load_digits(return_X_y=True))
    grey = (pixels.reshape(-1, SIDE, SIDE).astype(np.float32) / 16 - 0.5) / 0.5
    large = grey.repeat(side // SIDE, axis=1).repeat(side // SIDE, axis=2)
    return np.repeat(large[..., None], 3, axis=-1), labels.astype(np.int32)


def split_indices(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The fixed split: indices of 1,437 training and 360 test images, every class in proportion."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_IMAGES, random_state=SPLIT_SEED, stratify=labels
    )
    return np.sort(train), np.sort(test)
