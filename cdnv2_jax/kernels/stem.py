"""The first convolution as a call of the CPU kernel."""

import jax
import jax.numpy as jnp
import numpy as np


def stem(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """3×3 convolution with padding 1: float32 [N, H, W, c] → [N, C, ⌈H / stride⌉, ⌈W / stride⌉].

    Needs `cdnv2_jax.kernels.library.available()`. Not differentiable by itself.

    Args:
      images: with few channels.
      kernel: [3, 3, c, C].
      stride: of both sides.
    """
    batch, height, width, _ = images.shape
    shape = (batch, kernel.shape[-1], -(-height // stride), -(-width // stride))
    call = jax.ffi.ffi_call("cdnv2.Stem", jax.ShapeDtypeStruct(shape, jnp.float32), vmap_method="sequential")
    return call(images, kernel, stride=np.int64(stride))
