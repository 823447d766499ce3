"""scikit-learn's handwritten digits as a source of pixels."""

import numpy as np

from cdnv2_jax.data.digits import DIGITS, digits_as_images, split_indices
from cdnv2_jax.data.readers.pixels import PixelSource
from cdnv2_jax.data.source import Split


def read_digits(split: Split, image_size: int) -> PixelSource:
    """1,437 (train) or 360 (val) digits, uint8 [image_size, image_size, 3]; level l of 0 … 16 is round(l · 255 / 16).

    Raises:
      UserError: `image_size` is no multiple of 8.
    """
    images, labels = digits_as_images(image_size)
    chosen = split_indices(labels)[0 if split == "train" else 1]
    pixels = np.rint((images[chosen] + 1) / 2 * 255).astype(np.uint8)
    return PixelSource(pixels, labels[chosen], [str(digit) for digit in range(DIGITS)], f"digits {split} image")
