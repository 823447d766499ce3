"""A masked network's way through the CPU kernels in training: feature maps are flat (`kernels.flat_maps`) here."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from cdnv2_jax.kernels import library
from cdnv2_jax.kernels.inference import stem
from cdnv2_jax.kernels.training import (
    Excitation,
    Map,
    Masks,
    NormConv,
    Parameters,
    Statistics,
    average_pool,
    dense_layer,
    from_flat,
    to_flat,
)
from cdnv2_jax.layers.learned import MaskedConv
from cdnv2_jax.layers.lowering import choose
from cdnv2_jax.layers.norm import BatchNorm, track
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.condensenet.kernel_inference import fits, network_shape

if TYPE_CHECKING:
    from cdnv2_jax.networks.condensenet.network import DenseLayer


def applies(architecture: CondenseNetArchitecture, modules: Iterable[nnx.Module], images: jax.Array) -> bool:
    """Whether the kernels take the place of a masked network's modules for these images.

    They can in training mode, in float32, on one CPU; they do if the table of lowerings says so and there is a
    compiler.
    """
    return (
        fits(modules, images, use_running_average=False)
        and images.shape[0] > 0
        and choose("training_block", network_shape(architecture, images), "gradient") == "kernel"
        and library.available()
    )


def block_outputs(stem_conv: nnx.Conv, blocks: Iterable[nnx.List], images: jax.Array) -> Iterator[jax.Array]:
    """Each dense block's output [b, h, w, c], before the average pool that leads to the next block."""
    stride, _ = np.broadcast_to(stem_conv.strides or 1, 2)
    x = _stem(images, stem_conv.kernel[...], int(stride))
    height, width = x.shape[2:]
    x = to_flat(x)
    for number, block in enumerate(blocks):
        if number:
            x = average_pool(x, height, width)
            height, width = height // 2, width // 2
        for layer in block:
            x = _layer(layer, x, height, width)
        yield from_flat(x, height, width)


def _stem_forward(images: jax.Array, kernel: jax.Array, stride: int):
    return stem(images, kernel, stride), (images, kernel)


def _stem_backward(stride: int, saved: tuple[jax.Array, jax.Array], d: jax.Array) -> tuple[jax.Array, jax.Array]:
    def plain(images: jax.Array, kernel: jax.Array) -> jax.Array:
        padding, layout = ((1, 1), (1, 1)), ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(images, kernel, (stride, stride), padding, dimension_numbers=layout)

    return jax.vjp(plain, *saved)[1](d.transpose(0, 2, 3, 1))


_stem: Any = jax.custom_vjp(stem, nondiff_argnums=(2,))
_stem.defvjp(_stem_forward, _stem_backward)


def _layer(layer: "DenseLayer", x: jax.Array, height: int, width: int) -> jax.Array:
    assert isinstance(layer.lgc, MaskedConv)
    map = Map(height, width, layer.conv.activation == "hard_swish")
    se, sfr = layer.se, layer.sfr
    assert sfr is None or isinstance(sfr, MaskedConv)
    parameters = Parameters(
        lgc=_masked(layer.lgc),
        conv=NormConv(layer.conv.norm.scale[...], layer.conv.norm.bias[...], layer.conv.kernel[...]),
        se=None if se is None else Excitation(se.squeeze.kernel[...], se.excite.kernel[...]),
        sfr=None if sfr is None else _masked(sfr),
    )
    masks = Masks(layer.lgc.mask[...], None if sfr is None else sfr.mask[...])
    x, statistics = dense_layer(map, layer.conv.groups, x, parameters, masks)
    values = x.shape[0] * height * width
    _track(layer.lgc.norm, statistics.lgc, values)
    _track(layer.conv.norm, statistics.conv, values)
    if sfr is not None and statistics.sfr is not None:
        _track(sfr.norm, statistics.sfr, values)
    return x


def _masked(conv: MaskedConv) -> NormConv:
    return NormConv(conv.norm.scale[...], conv.norm.bias[...], conv.masked_kernel())


def _track(norm: BatchNorm, seen: Statistics, values: int) -> None:
    track(norm, jax.lax.stop_gradient(seen.mean), jax.lax.stop_gradient(seen.var), values)
