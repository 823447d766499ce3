"""A condensed network's way through the CPU kernels: maps are [batch, channels, height, width] here."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cdnv2_jax.kernels import library
from cdnv2_jax.kernels.condensed_block import Layer, Norm, condensed_block
from cdnv2_jax.layers.batch_norm import BatchNorm
from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedReactivation
from cdnv2_jax.layers.lowering import Shape, choose
from cdnv2_jax.layers.platform import traced_platform
from cdnv2_jax.models.architecture import Architecture
from cdnv2_jax.models.dense_layer import DenseLayer


def applies(architecture: Architecture, layers: Iterable[DenseLayer], images: jax.Array) -> bool:
    """Whether the kernels take the place of these dense layers for these images.

    They can for condensed layers in evaluation mode that compute in float32 on one CPU; they do if the table of
    lowerings says so and there is a compiler.
    """
    return (
        traced_platform() == "cpu"
        # XLA cannot divide a call among devices: each would compute the whole batch.
        and jax.device_count() == 1
        and images.dtype == jnp.float32
        # A program exported for batches of any size is meant to run elsewhere.
        and all(isinstance(side, int) for side in images.shape)
        and all(map(_fits, layers))
        and choose("condensed_block", _shape(architecture, images)) == "kernel"
        and library.available()
    )


def _shape(a: Architecture, images: jax.Array) -> Shape:
    """Of all blocks together, by which the table knows a network: from the first map's side to the last's channels."""
    batch, height, width, _ = images.shape
    side = math.sqrt(a.map_side(0, height) * a.map_side(0, width))
    return Shape(batch, side, a.stem_channels, a.out_channels, a.lgc_groups)


def _fits(layer: DenseLayer) -> bool:
    floats = (a for a in jax.tree.leaves(nnx.state(layer)) if jnp.issubdtype(a.dtype, jnp.floating))
    norms = [layer.lgc.norm, layer.conv.norm, *([] if layer.sfr is None else [layer.sfr.norm])]
    return (
        isinstance(layer.lgc, CondensedGroupConv)
        and layer.lgc.dtype in (None, jnp.float32)
        and all(array.dtype == jnp.float32 for array in floats)
        and all(norm.use_running_average for norm in norms)
    )


def block_outputs(
    stem: Callable[[jax.Array], jax.Array], blocks: Iterable[nnx.List], images: jax.Array
) -> Iterator[jax.Array]:
    """Each dense block's output [b, c, h, w], before the average pool that leads to the next block."""
    x = stem(images).transpose(0, 3, 1, 2)
    for number, block in enumerate(blocks):
        x = _block(block, x, pooled=number > 0)
        yield x


def _block(block: nnx.List, x: jax.Array, pooled: bool) -> jax.Array:
    graph, state = nnx.split(block)

    def kernel(state: nnx.State, x: jax.Array) -> jax.Array:
        layers: list[DenseLayer] = list(nnx.merge(graph, state))
        return condensed_block(
            x,
            [_arrays(layer) for layer in layers],
            conv_groups=layers[0].conv.groups,
            hard_swish=layers[0].conv.activation == "hard_swish",
            pooled=pooled,
        )

    def plain(state: nnx.State, x: jax.Array) -> jax.Array:
        x = x.transpose(0, 2, 3, 1)
        if pooled:
            x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        for layer in nnx.merge(graph, state):
            x = layer(x)
        return x.transpose(0, 3, 1, 2)

    return _differentiated_as(plain, kernel)(state, x)


def _differentiated_as(plain: Callable[..., Any], kernel: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel`, whose derivatives, of any order and mode, are those of `plain`."""
    function = jax.custom_jvp(kernel)
    function.defjvp(lambda primals, tangents: jax.jvp(plain, primals, tangents))
    return function


def _arrays(layer: DenseLayer) -> Layer:
    assert isinstance(layer.lgc, CondensedGroupConv)
    se, sfr = layer.se, layer.sfr
    assert sfr is None or isinstance(sfr, CondensedReactivation)
    return Layer(
        lgc_index=layer.lgc.index[...],
        lgc_kernel=layer.lgc.kernel[...],
        lgc_norm=_norm(layer.lgc.norm),
        conv_norm=_norm(layer.conv.norm),
        conv_kernel=layer.conv.kernel[...],
        squeeze=None if se is None else se.squeeze.kernel[...],
        excite=None if se is None else se.excite.kernel[...],
        sfr_index=None if sfr is None else sfr.index[...],
        sfr_kernel=None if sfr is None else sfr.kernel[...],
        sfr_norm=None if sfr is None else _norm(sfr.norm),
    )


def _norm(norm: BatchNorm) -> Norm:
    return Norm(norm.scale[...], norm.bias[...], norm.mean[...], norm.var[...])
