"""Evaluation and training of CondenseNets with the CPU kernels.

In evaluation, maps are [batch, channels, height, width]; in training, which is for masked networks, they are flat
(`kernels.training`).

The evaluation kernels support condensed layers only. A masked layer is passed as a condensed one that has kept every
connection, zeros included: as fast as a dense network can be, but only condensing skips pruned connections.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.kernels import library
from cdnv2_jax.kernels.inference import Layer, Norm, Pooling, condensed_block, head, stem
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
from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedReactivation
from cdnv2_jax.layers.convolutions import half_size
from cdnv2_jax.layers.learned import LearnedGroupConv, MaskedConv, SparseFeatureReactivation
from cdnv2_jax.layers.lowering import Shape, choose, traced_platform
from cdnv2_jax.layers.norm import BatchNorm, track
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture

if TYPE_CHECKING:
    from cdnv2_jax.networks.condensenet.network import DenseLayer


GROUP_OUTPUTS = 64
"""Outputs of a masked LGC that are computed together: enough that the kernel seldom recomputes an input's activation,
but few enough that their weights stay in a core's cache and that all threads have work."""


def used_in_evaluation(
    architecture: CondenseNetArchitecture, modules: Iterable[nnx.Module], images: jax.Array, *, condensed: bool
) -> bool:
    """Return whether the kernels replace a network's modules for these images.

    They can in evaluation mode, in float32, on one CPU; they do if the lowering table selects them and a compiler is
    available.
    """
    return (
        fits(modules, images, use_running_average=True)
        and choose("condensed_block" if condensed else "masked_block", network_shape(architecture, images)) == "kernel"
        and library.available()
    )


def fits(modules: Iterable[nnx.Module], images: jax.Array, *, use_running_average: bool) -> bool:
    """Return whether the kernels support these modules and images: float32, BatchNorms in the given mode, one CPU."""
    return (
        traced_platform() == "cpu"
        # XLA cannot partition a custom call across devices: each would compute the whole batch.
        and jax.device_count() == 1
        and images.dtype == jnp.float32
        # A program exported for batches of any size is meant to run elsewhere.
        and all(isinstance(side, int) for side in images.shape)
        and all(_module_fits(module, use_running_average) for module in modules)
    )


def _module_fits(module: nnx.Module, use_running_average: bool) -> bool:
    floats = (a for a in jax.tree.leaves(nnx.state(module)) if jnp.issubdtype(a.dtype, jnp.floating))
    parts = [part for _, part in nnx.iter_modules(module)]
    return (
        all(array.dtype == jnp.float32 for array in floats)
        and all(getattr(part, "dtype", None) in (None, jnp.float32) for part in parts)
        and all(part.use_running_average == use_running_average for part in parts if isinstance(part, BatchNorm))
    )


def network_shape(a: CondenseNetArchitecture, images: jax.Array) -> Shape:
    """Return the shape by which the lowering table knows a network: first map's side, first and last map's channels."""
    batch, height, width, _ = images.shape
    side = math.sqrt(a.map_side(0, height) * a.map_side(0, width))
    return Shape(batch, side, a.stem_channels, a.out_channels, a.lgc_groups)


def block_outputs(stem: nnx.Conv, blocks: Iterable[nnx.List], images: jax.Array) -> Iterator[jax.Array]:
    """Yield each dense block's output [b, c, h, w], before the average pool that leads to the next block."""
    x = _stem_map(stem, images)
    for number, block in enumerate(blocks):
        x = _block(block, x, "before" if number else "none")
        yield x


def pooled_features(stem: nnx.Conv, blocks: Sequence[nnx.List], norm: BatchNorm, images: jax.Array) -> jax.Array:
    """Return [b, c]: the last block's output after BatchNorm, ReLU and the mean over the map."""
    x = _stem_map(stem, images)
    for block in blocks[:-1]:
        x = _block(block, x, "after")  # pooling at once leaves a quarter of the values to write and read
    return _head(norm, _block(blocks[-1], x, "none"))


def _stem_map(module: nnx.Conv, images: jax.Array) -> jax.Array:
    def kernel(module: nnx.Conv, images: jax.Array) -> jax.Array:
        stride, _ = np.broadcast_to(module.strides or 1, 2)
        return stem(images, module.kernel[...], int(stride))

    return _differentiated_as(lambda module, images: _channels_first(module(images)), kernel, module, images)


def _block(block: nnx.List, x: jax.Array, pooling: Pooling) -> jax.Array:
    def kernel(block: nnx.List, x: jax.Array) -> jax.Array:
        conv = block[0].conv
        hard_swish = conv.activation == "hard_swish"
        arrays = [_arrays(layer) for layer in block]
        return condensed_block(x, arrays, conv_groups=conv.groups, hard_swish=hard_swish, pooling=pooling)

    def plain(block: nnx.List, x: jax.Array) -> jax.Array:
        x = x.transpose(0, 2, 3, 1)
        if pooling == "before":
            x = half_size(x)
        for layer in block:
            x = layer(x)
        if pooling == "after":
            x = half_size(x)
        return _channels_first(x)

    return _differentiated_as(plain, kernel, block, x)


def _head(norm: BatchNorm, x: jax.Array) -> jax.Array:
    def plain(norm: BatchNorm, x: jax.Array) -> jax.Array:
        return jax.nn.relu(norm(x.transpose(0, 2, 3, 1))).mean((1, 2))

    return _differentiated_as(plain, lambda norm, x: head(x, _norm(norm)), norm, x)


def _channels_first(x: jax.Array) -> jax.Array:
    return x.transpose(0, 3, 1, 2)


def _differentiated_as(
    plain: Callable[[Any, jax.Array], jax.Array],
    kernel: Callable[[Any, jax.Array], jax.Array],
    module: nnx.Module,
    x: jax.Array,
) -> jax.Array:
    """Compute kernel(module, x), with the derivatives, of any order and mode, of plain(module, x)."""
    graph, state = nnx.split(module)
    function = jax.custom_jvp(lambda state, x: kernel(nnx.merge(graph, state), x))

    @function.defjvp
    def _derivative(primals: tuple[nnx.State, jax.Array], tangents: tuple[Any, jax.Array]) -> tuple[Any, Any]:
        return jax.jvp(lambda state, x: plain(nnx.merge(graph, state), x), primals, tangents)

    return function(state, x)


class _Connections(NamedTuple):
    """Index [groups, kept], kernel and BatchNorm of a condensed LGC or SFR."""

    channels: jax.Array
    kernel: jax.Array
    norm: Norm


def _arrays(layer: "DenseLayer") -> Layer:
    lgc, conv, se = _lgc(layer.lgc), layer.conv, layer.se
    sfr = None if layer.sfr is None else _sfr(layer.sfr)
    return Layer(
        lgc_index=lgc.channels,
        lgc_kernel=lgc.kernel,
        lgc_norm=lgc.norm,
        conv_norm=_norm(conv.norm),
        conv_kernel=conv.kernel[...],
        squeeze=None if se is None else se.squeeze.kernel[...],
        excite=None if se is None else se.excite.kernel[...],
        sfr_index=None if sfr is None else sfr.channels,
        sfr_kernel=None if sfr is None else sfr.kernel,
        sfr_norm=None if sfr is None else sfr.norm,
    )


def _lgc(conv: CondensedGroupConv | LearnedGroupConv) -> _Connections:
    if isinstance(conv, CondensedGroupConv):
        return _Connections(conv.index[...], conv.kernel[...], _gathered_norm(conv))
    norm = _norm(conv.norm)
    inputs, outputs = conv.kernel.shape
    groups = next(n for n in range(-(-outputs // GROUP_OUTPUTS), outputs + 1) if outputs % n == 0)
    kernel = conv.masked_kernel().reshape(inputs, outputs // groups, groups).transpose(2, 0, 1)
    return _Connections(_all(groups, inputs), kernel, Norm(*(jnp.tile(values, groups) for values in norm)))


def _sfr(conv: CondensedReactivation | SparseFeatureReactivation) -> _Connections:
    norm = _norm(conv.norm)
    if isinstance(conv, CondensedReactivation):
        return _Connections(conv.index[...], conv.kernel[...], norm)
    return _Connections(_all(1, conv.kernel.shape[1]), conv.masked_kernel()[None], norm)


def _all(groups: int, channels: int) -> jax.Array:
    """Return an index [groups, channels] by which every group has kept all channels."""
    return jnp.broadcast_to(jnp.arange(channels, dtype=jnp.int32), (groups, channels))


def _gathered_norm(conv: CondensedGroupConv) -> Norm:
    """Return the normalisation of what each group reads."""
    if conv.norm is not None:
        return _norm(conv.norm)
    assert conv.input_norm is not None
    return Norm(*jnp.stack(_norm(conv.input_norm))[:, conv.index.reshape(-1)])


def _norm(norm: BatchNorm) -> Norm:
    return Norm(norm.scale[...], norm.bias[...], norm.mean[...], norm.var[...])


def used_in_training(architecture: CondenseNetArchitecture, modules: Iterable[nnx.Module], images: jax.Array) -> bool:
    """Return whether the kernels replace a masked network's modules for these images.

    They can in training mode, in float32, on one CPU; they do if the lowering table selects them and a compiler is
    available.
    """
    return (
        fits(modules, images, use_running_average=False)
        and images.shape[0] > 0
        and choose("training_block", network_shape(architecture, images), "gradient") == "kernel"
        and library.available()
    )


def training_block_outputs(stem_conv: nnx.Conv, blocks: Iterable[nnx.List], images: jax.Array) -> Iterator[jax.Array]:
    """Yield each dense block's output [b, h, w, c], before the average pool that leads to the next block."""
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
