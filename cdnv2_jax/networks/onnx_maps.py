"""A dense layer of a CondenseNet: LGC 1×1 → grouped 3×3 → SE → SFR."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.condensed import CondensedReactivation
from cdnv2_jax.layers.convolutions import ConvNorm
from cdnv2_jax.layers.learned import SparseFeatureReactivation
from cdnv2_jax.layers.onnx_graph import Graph, Map, masked_kernel, norm_of, spread, values, window_kernel
from cdnv2_jax.layers.onnx_layers import (
    activate,
    conv_norm,
    gated,
    grouped_conv,
    learned_group_conv,
    linear,
    squeeze_excite,
)
from cdnv2_jax.networks.condensenet.dense_layer import DenseLayer
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.mobilenet_v2 import InvertedResidual, MobileNetV2
from cdnv2_jax.networks.shufflenet_v2 import ShuffleNetV2, ShuffleUnit


def dense_layer(graph: Graph, layer: DenseLayer, x: Map) -> Map:
    """[b, n, h, w] → [b, n + k, h, w]."""
    with graph.scope("lgc"):
        h, order = learned_group_conv(graph, layer.lgc, layer.conv.norm, x)
    with graph.scope("conv"):
        h = activate(graph, h, layer.conv.activation)
        h = grouped_conv(graph, window_kernel(layer.conv.kernel), layer.conv.groups, h, order)
    if layer.se is not None:
        h = squeeze_excite(graph, layer.se, h)
    if layer.sfr is not None:
        with graph.scope("sfr"):
            x = reactivated(graph, layer.sfr, x, h)
    return graph.concatenate(x, h)


def reactivated(graph: Graph, layer: SparseFeatureReactivation | CondensedReactivation, x: Map, h: Map) -> Map:
    """x plus what the new features h add to it; condensed or not, one product puts all results where they belong."""
    if isinstance(layer, CondensedReactivation):
        by_input = spread(values(layer.kernel), np.asarray(layer.index[...]), layer.out_channels)
        kernel = by_input.T[:, :, None, None]
    else:
        kernel = masked_kernel(layer)
    h = activate(graph, graph.norm(h, norm_of(layer.norm)), layer.activation)
    return graph.apply("Add", x, graph.conv(h, kernel))


def condensenet_maps(graph: Graph, network: CondenseNet, images: Map) -> dict[int, Map]:
    """{stride: output of the dense block}; of the last block after its normalisation and ReLU."""
    strides = network.architecture.block_strides
    with graph.scope("stem"):
        x = graph.conv(images, window_kernel(network.stem.kernel), stride=strides[0])
    maps = {}
    for number, (stride, block) in enumerate(zip(strides, network.blocks, strict=True), 1):
        with graph.scope(f"block_{number}"):
            if number > 1:
                x = graph.apply("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            for place, layer in enumerate(block, 1):
                with graph.scope(f"layer_{place}"):
                    x = dense_layer(graph, layer, x)
        maps[stride] = x
    with graph.scope("last"):
        maps[strides[-1]] = graph.apply("Relu", graph.norm(x, norm_of(network.norm_last)))
    return maps


def condensenet_logits(graph: Graph, network: CondenseNet, images: Map) -> Map:
    """The head on the mean of the last map; its output is called "logits"."""
    *_, last = condensenet_maps(graph, network, images).values()
    with graph.scope("head"):
        x = graph.apply("GlobalAveragePool", last)
        if network.se_last is not None:
            x = gated(graph, network.se_last, x, mean=x)
        x = graph.apply("Flatten", x, axis=1)
        if network.fc is not None:
            x = graph.apply("HardSwish", linear(graph, network.fc, x))
        return linear(graph, network.classifier, x, output="logits")


PlainNetwork = ShuffleNetV2 | MobileNetV2


def plain_maps(graph: Graph, network: PlainNetwork, images: Map) -> dict[int, Map]:
    """{stride: output of the last unit with that stride}; of a ShuffleNetV2 at stride 4 what its max-pool gives."""
    with graph.scope("stem"):
        x, stride = conv_norm(graph, network.stem, images), 2
        if isinstance(network, ShuffleNetV2):
            window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
            x, stride = graph.apply("MaxPool", x, **window), 4
    maps = {stride: x}
    for number, (unit, stride) in enumerate(zip(network.units, network.architecture.unit_strides, strict=True), 1):
        with graph.scope(f"unit_{number}"):
            x = shuffle_unit(graph, unit, x) if isinstance(unit, ShuffleUnit) else inverted_residual(graph, unit, x)
        maps[stride] = x
    return maps


def plain_logits(graph: Graph, network: PlainNetwork, images: Map) -> Map:
    """The classifier on the mean of the last convolution's map; its output is called "logits"."""
    *_, x = plain_maps(graph, network, images).values()
    with graph.scope("head"):
        mean = graph.apply("GlobalAveragePool", conv_norm(graph, network.last, x))
        return linear(graph, network.classifier, graph.apply("Flatten", mean, axis=1), output="logits")


def inverted_residual(graph: Graph, unit: InvertedResidual, x: Map) -> Map:
    """A unit of MobileNetV2."""
    convs = [unit.depthwise, unit.project] if unit.expand is None else [unit.expand, unit.depthwise, unit.project]
    h = in_turn(graph, convs, x)
    return graph.apply("Add", x, h) if unit.adds else h


def shuffle_unit(graph: Graph, unit: ShuffleUnit, x: Map) -> Map:
    """A unit of ShuffleNetV2; where halves are interleaved channels, they are gathered."""
    if unit.projection is None:
        channels = np.arange(x.channels)
        kept, read = (channels[0::2], channels[1::2]) if unit.variant == "megvii" else np.split(channels, 2)
        first, x = graph.gather(x, kept), graph.gather(x, read)
    else:
        first = in_turn(graph, unit.projection, x)
    joined = graph.concatenate(first, in_turn(graph, unit.main, x))
    if unit.variant == "megvii":
        return joined
    return graph.gather(joined, np.arange(joined.channels).reshape(2, -1).T.reshape(-1))


def in_turn(graph: Graph, convs: Iterable[ConvNorm], x: Map) -> Map:
    """One convolution after the other."""
    for conv in convs:
        x = conv_norm(graph, conv, x)
    return x


def backbone_maps(graph: Graph, backbone: Any, images: Map) -> dict[int, Map]:
    """{stride: map}, as `features` of our networks gives them, and finer ones.

    Raises:
      UserError: a backbone of one's own.
    """
    with graph.scope("backbone"):
        if isinstance(backbone, CondenseNet):
            return condensenet_maps(graph, backbone, images)
        if isinstance(backbone, ShuffleNetV2 | MobileNetV2):
            return plain_maps(graph, backbone, images)
    raise UserError(
        f"a detector on a {type(backbone).__name__} cannot be exported to ONNX, only one on a known network"
    )
