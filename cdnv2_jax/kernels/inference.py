"""CPU kernels for inference: the stem, a whole condensed dense block, and the head."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Pooling = Literal["none", "before", "after"]
"""Position of a 2×2 average pool of stride 2 relative to the block."""


class Norm(NamedTuple):
    """A BatchNorm with frozen statistics, float32 [channels] each."""

    scale: jax.Array
    bias: jax.Array
    mean: jax.Array
    var: jax.Array


class Layer(NamedTuple):
    """Arrays of a condensed dense layer, in the layouts of its modules and in the order that the kernel expects.

    `squeeze` [k, hidden] and `excite` [hidden, k] are None in a block without SE, `sfr_*` in a block without SFR.
    """

    lgc_index: jax.Array
    lgc_kernel: jax.Array
    lgc_norm: Norm
    conv_norm: Norm
    conv_kernel: jax.Array
    squeeze: jax.Array | None
    excite: jax.Array | None
    sfr_index: jax.Array | None
    sfr_kernel: jax.Array | None
    sfr_norm: Norm | None


def condensed_block(
    x: jax.Array, layers: Sequence[Layer], *, conv_groups: int, hard_swish: bool, pooling: Pooling
) -> jax.Array:
    """Apply a dense block: features float32 [N, C, H, W] → [N, C + Σ k, H, W].

    With pooling the result is [N, C + Σ k, H / 2, W / 2], rounded down.

    Needs `cdnv2_jax.kernels.library.available()`. Not differentiable.

    Args:
      x: input features.
      layers: one or more; all or none have SE, and all or none have SFR.
      conv_groups: groups of the 3×3 convolutions.
      hard_swish: whether the activation is hard-swish instead of ReLU.
      pooling: "none", "before" or "after".

    Raises:
      ValueError, jax.errors.JaxRuntimeError: at run time, if shapes do not match or an index is out of range.
    """
    batch, channels, height, width = x.shape
    channels += sum(layer.conv_kernel.shape[-1] for layer in layers)
    step = 1 if pooling == "none" else 2
    result = jax.ShapeDtypeStruct((batch, channels, height // step, width // step), jnp.float32)
    call = jax.ffi.ffi_call("cdnv2.CondensedBlock", result, vmap_method="sequential")
    return call(
        x,
        *jax.tree.leaves(list(layers)),
        layers=np.int64(len(layers)),
        conv_groups=np.int64(conv_groups),
        hard_swish=hard_swish,
        se=layers[0].squeeze is not None,
        sfr=layers[0].sfr_index is not None,
        pooling=pooling,
    )


def stem(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Apply a 3×3 convolution with padding 1: float32 [N, H, W, c] → [N, C, ⌈H / stride⌉, ⌈W / stride⌉].

    Needs `cdnv2_jax.kernels.library.available()`. Not differentiable.

    Args:
      images: images with few channels c.
      kernel: [3, 3, c, C].
      stride: along both axes.
    """
    batch, height, width, _ = images.shape
    shape = (batch, kernel.shape[-1], -(-height // stride), -(-width // stride))
    call = jax.ffi.ffi_call("cdnv2.Stem", jax.ShapeDtypeStruct(shape, jnp.float32), vmap_method="sequential")
    return call(images, kernel, stride=np.int64(stride))


def head(x: jax.Array, norm: Norm) -> jax.Array:
    """Apply BatchNorm, ReLU and global average pooling: float32 [N, C, H, W] → [N, C].

    Needs `cdnv2_jax.kernels.library.available()`. Not differentiable.
    """
    result = jax.ShapeDtypeStruct(x.shape[:2], jnp.float32)
    return jax.ffi.ffi_call("cdnv2.Head", result, vmap_method="sequential")(x, *norm)
