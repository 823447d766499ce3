"""The part of a canvas that an image covers, so that what pads it changes nothing."""

import jax
import jax.numpy as jnp

MULTIPLE = 32
"""Images count as padded to a multiple of this many pixels, the largest stride of a backbone."""


def valid_mask(sizes: jax.Array, height: int, width: int) -> jax.Array:
    """bool [b, height, width, 1]: where each image of a batch is, padded to a multiple of 32.

    Args:
      sizes: int [b, 2], height and width of each image, which lies at the top left of a canvas.
      height, width: of the canvas, pixels.
    """
    padded = -(-sizes // MULTIPLE) * MULTIPLE
    rows = jnp.arange(height)[None, :, None, None] < padded[:, 0, None, None, None]
    columns = jnp.arange(width)[None, None, :, None] < padded[:, 1, None, None, None]
    return rows & columns


def halved(mask: jax.Array) -> jax.Array:
    """The mask of the map that a stride of 2 gives: of n valid rows, ⌈n / 2⌉."""
    return mask[:, ::2, ::2]


def at_stride(mask: jax.Array | None, stride: int) -> jax.Array | None:
    """The mask of the map of that stride, a divisor of 32; None of None."""
    return None if mask is None else mask[:, ::stride, ::stride]


def inside(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """x [b, h, w, c] with zeros where `mask` [b, h, w, 1] is False, as a convolution pads; None: x as it is."""
    return x if mask is None else jnp.where(mask, x, jnp.zeros((), x.dtype))


def mean_inside(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """[b, 1, 1, c]: the mean of x [b, h, w, c] over its map, or over where `mask` [b, h, w, 1] is True."""
    if mask is None:
        return x.mean((1, 2), keepdims=True)
    return inside(x, mask).sum((1, 2), keepdims=True) / mask.sum((1, 2), keepdims=True).astype(x.dtype)


def region_of(images: jax.Array, sizes: jax.Array | None, largest_stride: int) -> jax.Array | None:
    """bool [b, h, w, 1]: where each image is, padded to a multiple of 32; None without `sizes`.

    Args:
      images: [b, h, w, c], the canvas.
      sizes: int [b, 2], heights and widths.
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
