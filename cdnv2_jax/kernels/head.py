"""What follows the last block, up to the Linear layers, as a call of the CPU kernel."""

import jax
import jax.numpy as jnp

from cdnv2_jax.kernels.condensed_block import Norm


def head(x: jax.Array, norm: Norm) -> jax.Array:
    """BatchNorm → ReLU → mean over the map: float32 [N, C, H, W] → [N, C].

    Needs `cdnv2_jax.kernels.library.available()`. Not differentiable by itself.
    """
    result = jax.ShapeDtypeStruct(x.shape[:2], jnp.float32)
    return jax.ffi.ffi_call("cdnv2.Head", result, vmap_method="sequential")(x, *norm)
