"""CondenseNet and CondenseNetV2, masked and condensed."""

from cdnv2_jax.export.onnx.dense_layer import dense_layer
from cdnv2_jax.export.onnx.fold import norm_of, window_kernel
from cdnv2_jax.export.onnx.graph import Graph, Map
from cdnv2_jax.export.onnx.layers import gated, linear
from cdnv2_jax.models.condensenet import CondenseNet


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
