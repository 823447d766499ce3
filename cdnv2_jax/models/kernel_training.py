"""A masked network's way through the CPU kernels in training: feature maps are flat (`kernels.flat_maps`) here."""

from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from cdnv2_jax.kernels import library
from cdnv2_jax.kernels.dense_layer import Excitation, Masks, Parameters, dense_layer
from cdnv2_jax.kernels.flat_maps import average_pool, from_flat, to_flat
from cdnv2_jax.kernels.training_ops import Map, NormConv, Statistics
from cdnv2_jax.layers.batch_norm import BatchNorm
from cdnv2_jax.layers.masked_conv import MaskedConv
from cdnv2_jax.layers.platform import traced_platform
from cdnv2_jax.models.dense_layer import DenseLayer


def applies(layers: Iterable[DenseLayer], images: jax.Array) -> bool:
    """Whether the kernels may take the place of these dense layers: masked, in training mode, float32, one CPU."""
    return (
        traced_platform() == "cpu"
        # XLA cannot divide a call among devices: each would compute the whole batch.
        and jax.device_count() == 1
        and images.dtype == jnp.float32
        and images.shape[0] > 0
        and all(map(_fits, layers))
        and library.available()
    )


def _fits(layer: DenseLayer) -> bool:
    floats = (a for a in jax.tree.leaves(nnx.state(layer)) if jnp.issubdtype(a.dtype, jnp.floating))
    norms = [layer.lgc.norm, layer.conv.norm, *([] if layer.sfr is None else [layer.sfr.norm])]
    return (
        isinstance(layer.lgc, MaskedConv)
        and layer.lgc.dtype in (None, jnp.float32)
        and all(array.dtype == jnp.float32 for array in floats)
        and not any(norm.use_running_average for norm in norms)
    )


def block_outputs(
    stem: Callable[[jax.Array], jax.Array], blocks: Iterable[nnx.List], images: jax.Array
) -> Iterator[jax.Array]:
    """Each dense block's output [b, h, w, c], before the average pool that leads to the next block."""
    x = stem(images)
    height, width = x.shape[1:3]
    x = to_flat(x)
    for number, block in enumerate(blocks):
        if number:
            x = average_pool(x, height, width)
            height, width = height // 2, width // 2
        for layer in block:
            x = _layer(layer, x, height, width)
        yield from_flat(x, height, width)


def _layer(layer: DenseLayer, x: jax.Array, height: int, width: int) -> jax.Array:
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
    return NormConv(conv.norm.scale[...], conv.norm.bias[...], conv.kernel * conv.kernel_mask())


def _track(norm: BatchNorm, seen: Statistics, values: int) -> None:
    norm.track(jax.lax.stop_gradient(seen.mean), jax.lax.stop_gradient(seen.var), values)
