"""The layout of feature maps inside the kernels, as arrays: [N, C, positions].

Position (y, x) of an H × W map lies at y · (W + 1) + x; the column W, and what fills up to a multiple of 8, is zero.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

GRAIN = 8


def positions(height: int, width: int) -> int:
    """Values per channel of a flat map."""
    return -(-height * (width + 1) // GRAIN) * GRAIN


def to_flat(x: jax.Array) -> jax.Array:
    """[N, C, H, W] → [N, C, positions]."""
    batch, channels, height, width = x.shape
    rows = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1)))
    flat = rows.reshape(batch, channels, height * (width + 1))
    return jnp.pad(flat, ((0, 0), (0, 0), (0, positions(height, width) - flat.shape[2])))


def from_flat(x: jax.Array, height: int, width: int) -> jax.Array:
    """[N, C, positions] → [N, H, W, C]."""
    batch, channels, _ = x.shape
    rows = x[:, :, : height * (width + 1)].reshape(batch, channels, height, width + 1)
    return rows[..., :width].transpose(0, 2, 3, 1)


def average_pool(x: jax.Array, height: int, width: int) -> jax.Array:
    """2×2 average pool of stride 2 of flat H × W maps, float32; an odd last row or column is left out."""
    return _average_pool(x, height, width)


def _pooled(x: jax.Array, height: int, width: int) -> jax.Array:
    return _pool("PoolForward", x, positions(height // 2, width // 2), height, width)


def _forward(x: jax.Array, height: int, width: int) -> tuple[jax.Array, None]:
    return _pooled(x, height, width), None


def _backward(height: int, width: int, _: None, dy: jax.Array) -> tuple[jax.Array]:
    return (_pool("PoolBackward", dy, positions(height, width), height, width),)


_average_pool: Any = jax.custom_vjp(_pooled, nondiff_argnums=(1, 2))
_average_pool.defvjp(_forward, _backward)


def _pool(target: str, x: jax.Array, size: int, height: int, width: int) -> jax.Array:
    result = jax.ShapeDtypeStruct((*x.shape[:2], size), jnp.float32)
    call = jax.ffi.ffi_call(f"cdnv2.{target}", result, vmap_method="sequential")
    return call(x, height=np.int64(height), width=np.int64(width))
