"""Layers as accelerators compute them fastest in inference: with dense kernels, zero where there is no connection.

Matrix units gain nothing from small groups, and gathering channels costs a TPU, where they lie in vector lanes, and a
GPU, which starts a kernel for it, more than multiplying zeros. So masked and condensed networks become one program.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype

from cdnv2_jax.layers.condensed import (
    CondensedGroupConv,
    CondensedLayer,
    CondensedReactivation,
    dense_on_host,
    places_of,
    put,
)
from cdnv2_jax.layers.convolutions import NormActConv, half_size
from cdnv2_jax.layers.learned import LearnedGroupConv, MaskedConv
from cdnv2_jax.layers.lowering import traced_platform
from cdnv2_jax.layers.norm import ActivationName, BatchNorm, activation_function

ModuleT = TypeVar("ModuleT", bound=nnx.Module)

TPU_LANES = 128


class DensePointwise(nnx.Module):
    """BatchNorm → activation → 1×1 convolution with a dense kernel [in, out]; see `MaskedConv`.

    libtpu (0.0.42) fuses an LGC into the 3×3 convolution that follows, which saves writing the map between them. But if
    its channels fill the lanes of a matrix unit, fused, they take twice as long as `apart`.
    """

    def __init__(self, conv: MaskedConv | CondensedLayer, norm: BatchNorm):
        self.activation: ActivationName = conv.activation
        self.norm = norm
        kernel = pointwise_kernel(conv)
        reads = isinstance(conv, LearnedGroupConv | CondensedGroupConv)
        self.apart = traced_platform() == "tpu" and reads and kernel.shape[1] >= TPU_LANES
        self.kernel = nnx.Param(jax.device_put(kernel.astype(conv.dtype or conv.kernel.dtype)))

    def __call__(self, x: jax.Array, halved: bool = False) -> jax.Array:
        h = activation_function(self.activation)(self.norm(x))
        h = half_size(h) if halved else h
        h, kernel = promote_dtype((h, self.kernel[...]), dtype=self.kernel.dtype)
        return jax.lax.optimization_barrier(h @ kernel) if self.apart else h @ kernel


class RoundingConv(nnx.Module):
    """An `nnx.Conv` without bias in bfloat16 that leaves rounding float32 images to the product; a network's first.

    A TPU rounds the factors anyway. Rounded before, the images are written and read once more.
    """

    def __init__(self, conv: nnx.Conv, stride: int, padding: int):
        self.kernel = conv.kernel
        self.dtype = conv.dtype
        self.stride, self.padding = stride, padding

    def __call__(self, images: jax.Array) -> jax.Array:
        product = jax.lax.conv_general_dilated(
            images,
            self.kernel.astype(images.dtype),
            (self.stride, self.stride),
            [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.DEFAULT,
        )
        return product.astype(self.dtype)


def with_dense_kernels(module: ModuleT) -> ModuleT:
    """Return a copy for inference on a TPU or GPU, which has no mask or group left, and no kernel to scatter in a call.

    A CPU, which has kernels of its own, gets the module itself. A condensed layer whose groups normalise differently
    stays as it is.
    """
    platform = traced_platform()
    if platform == "cpu":
        return module
    copy = nnx.clone(module)
    for path, conv in places_of((MaskedConv, CondensedGroupConv, CondensedReactivation), copy):
        norm = conv.input_norm if isinstance(conv, CondensedGroupConv) else conv.norm
        if norm is not None:
            put(copy, path, DensePointwise(conv, norm))
    for _, conv in places_of((NormActConv,), copy):
        kernel = block_diagonal(np.asarray(conv.kernel[...]), conv.groups)
        conv.kernel, conv.groups = nnx.Param(jax.device_put(kernel.astype(conv.dtype or kernel.dtype))), 1
    for path, conv in places_of((nnx.Conv,), copy) if platform == "tpu" else ():
        if conv.dtype != jnp.bfloat16 or conv.bias is not None or conv.feature_group_count > 1:
            continue
        if isinstance(conv.strides, int) and isinstance(conv.padding, int):
            put(copy, path, RoundingConv(conv, conv.strides, conv.padding))
    return copy


# As NumPy: JAX would compile a program for each shape.


def pointwise_kernel(conv: MaskedConv | CondensedLayer) -> np.ndarray:
    """Return the kernel of a learned convolution as [in, out], zero where there is no connection."""
    kernel = np.asarray(conv.kernel[...])
    if isinstance(conv, MaskedConv):
        mask = np.asarray(conv.mask[...])
        mask = mask.T if isinstance(conv, LearnedGroupConv) else mask
        return kernel * np.tile(mask, np.floor_divide(kernel.shape, mask.shape))
    index = np.asarray(conv.index[...])
    if isinstance(conv, CondensedGroupConv):
        return dense_on_host(kernel.transpose(0, 2, 1), index, conv.in_channels).T
    return dense_on_host(kernel, index, conv.out_channels)


def block_diagonal(kernel: np.ndarray, groups: int) -> np.ndarray:
    """Return a grouped kernel [h, w, in / groups, out] as [h, w, in, out], zero between groups."""
    *window, members, outputs = kernel.shape
    dense = np.zeros((*window, groups, members, groups, outputs // groups), kernel.dtype)
    for group, of_group in enumerate(np.split(kernel, groups, axis=-1)):
        dense[..., group, :, group, :] = of_group
    return dense.reshape(*window, groups * members, outputs)
