"""ShuffleNetV2 and MobileNetV2."""

from collections.abc import Iterable

import numpy as np

from cdnv2_jax.export.onnx.graph import Graph, Map
from cdnv2_jax.export.onnx.layers import conv_norm, linear
from cdnv2_jax.layers.conv_norm import ConvNorm
from cdnv2_jax.models.mobilenet_v2 import InvertedResidual, MobileNetV2
from cdnv2_jax.models.shufflenet_v2 import ShuffleNetV2, ShuffleUnit

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
