"""What networks take: batches of images that fill their canvas or lie at its top left."""

from typing import Protocol

import jax

from cdnv2_jax.layers.valid_region import MULTIPLE, valid_mask


class TakesImages(Protocol):
    """An architecture, which knows the images that are too small for it."""

    def check_image(self, height: int, width: int) -> None: ...


def check_images(architecture: TakesImages, images: jax.Array) -> None:
    """ValueError unless `images` are [batch, height, width, 3]; UserError when they are too small."""
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be [batch, height, width, 3], got {list(images.shape)}")
    architecture.check_image(*images.shape[1:3])


def region_of(images: jax.Array, sizes: jax.Array | None, largest_stride: int) -> jax.Array | None:
    """bool [b, h, w, 1]: where each image is, padded to a multiple of 32; None without `sizes`.

    Args:
      images: [b, h, w, c], the canvas. sizes: int [b, 2], heights and widths.
      largest_stride: of the maps that the region will be needed for.

    Raises:
      ValueError: shapes that do not fit together, or a canvas or stride in which such regions would end between two
        values of a map.
    """
    if sizes is None:
        return None
    batch, height, width, _ = images.shape
    if sizes.shape != (batch, 2):
        raise ValueError(f"sizes must be [{batch}, 2], height and width of each image, got {list(sizes.shape)}")
    if height % MULTIPLE or width % MULTIPLE:
        raise ValueError(f"with sizes, the canvas must be a multiple of {MULTIPLE} pixels, got {height}×{width}")
    if MULTIPLE % largest_stride:
        raise ValueError(f"with sizes, strides must divide {MULTIPLE}, got {largest_stride}")
    return valid_mask(sizes, height, width)
