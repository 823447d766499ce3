"""Masks of the part of a canvas that an image covers, so that padding does not change its feature maps."""

import jax
import jax.numpy as jnp

MULTIPLE = 32
"""Images are treated as padded to a multiple of this many pixels, the largest stride of a backbone."""


def valid_mask(sizes: jax.Array, height: int, width: int) -> jax.Array:
    """Return the region of each image of a batch, padded to a multiple of 32: bool [b, height, width, 1].

    Args:
      sizes: int [b, 2], height and width of each image, which lies at the top left of its canvas.
      height, width: size of the canvas in pixels.
    """
    padded = -(-sizes // MULTIPLE) * MULTIPLE
    rows = jnp.arange(height)[None, :, None, None] < padded[:, 0, None, None, None]
    columns = jnp.arange(width)[None, None, :, None] < padded[:, 1, None, None, None]
    return rows & columns


def halved(mask: jax.Array) -> jax.Array:
    """Return the mask after a stride of 2: ⌈n / 2⌉ of n valid rows remain."""
    return mask[:, ::2, ::2]


def at_stride(mask: jax.Array | None, stride: int) -> jax.Array | None:
    """Return the mask of the map with that stride, a divisor of 32; None if `mask` is None."""
    return None if mask is None else mask[:, ::stride, ::stride]


def inside(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Zero x [b, h, w, c] where `mask` [b, h, w, 1] is False, as a convolution pads; None leaves x unchanged."""
    return x if mask is None else jnp.where(mask, x, jnp.zeros((), x.dtype))


def mean_inside(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Return the mean [b, 1, 1, c] of x [b, h, w, c] over the map, or only where `mask` [b, h, w, 1] is True."""
    if mask is None:
        return x.mean((1, 2), keepdims=True)
    return inside(x, mask).sum((1, 2), keepdims=True) / mask.sum((1, 2), keepdims=True).astype(x.dtype)


def region_of(images: jax.Array, sizes: jax.Array | None, largest_stride: int) -> jax.Array | None:
    """Return the region of each image, padded to a multiple of 32: bool [b, h, w, 1], or None without `sizes`.

    Args:
      images: [b, h, w, c], the canvas.
      sizes: int [b, 2], height and width of each image.
      largest_stride: largest stride of the maps to be masked.

    Raises:
      ValueError: `sizes` does not match the batch, or the canvas is not a multiple of 32 or the stride not a divisor
        of 32, so that a region could end between two values of a map.
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
