"""What all networks are made of: activations, convolutions with their normalisation, squeeze-and-excitation."""

import numpy as np
from flax import nnx

from cdnv2_jax.export.onnx.fold import fold, norm_of, pointwise_kernel, values, window_kernel
from cdnv2_jax.export.onnx.graph import Graph, Map
from cdnv2_jax.layers.activation import ActivationName
from cdnv2_jax.layers.condensed import CondensedLinear
from cdnv2_jax.layers.conv_norm import AfterNorm, ConvNorm
from cdnv2_jax.layers.depthwise_conv import DepthwiseConv
from cdnv2_jax.layers.squeeze_excite import SqueezeExcite


def activate(graph: Graph, x: Map, name: ActivationName | AfterNorm) -> Map:
    """Applies the activation of that name."""
    if name == "linear":
        return x
    if name == "relu6":
        limits = [graph.number(limit) for limit in (0, 6)]
        return Map(graph.add("Clip", x.name, *limits), x.channels)
    return graph.apply({"relu": "Relu", "hard_swish": "HardSwish"}[name], x)


def conv_norm(graph: Graph, layer: ConvNorm, x: Map) -> Map:
    """Convolution and normalisation as one node, then the activation."""
    kernel, bias = fold(window_kernel(layer.conv.kernel), norm_of(layer.norm))
    if isinstance(layer.conv, DepthwiseConv):
        groups, stride = x.channels, layer.conv.stride
    else:
        groups, stride = 1, conv_stride(layer.conv)
    return activate(graph, graph.conv(x, kernel, bias, groups=groups, stride=stride), layer.activation)


def biased_conv(graph: Graph, layer: nnx.Conv, x: Map) -> Map:
    """A convolution with bias and nothing else."""
    assert layer.bias is not None
    return graph.conv(x, window_kernel(layer.kernel), values(layer.bias), stride=conv_stride(layer))


def conv_stride(layer: nnx.Conv) -> int:
    """The same along both axes."""
    stride, _ = np.broadcast_to(layer.strides or 1, 2)
    return int(stride)


def squeeze_excite(graph: Graph, layer: SqueezeExcite, x: Map) -> Map:
    """Every channel times its gate."""
    with graph.scope("se"):
        return gated(graph, layer, x, graph.apply("GlobalAveragePool", x))


def gated(graph: Graph, layer: SqueezeExcite, x: Map, mean: Map) -> Map:
    """x times the gates that its mean [batch, channels, 1, 1] gives."""
    hidden = graph.apply("Relu", graph.conv(mean, pointwise_kernel(layer.squeeze.kernel)))
    gates = graph.apply("Sigmoid", graph.conv(hidden, pointwise_kernel(layer.excite.kernel)))
    return graph.apply("Mul", x, gates)


def linear(graph: Graph, layer: nnx.Linear | CondensedLinear, x: Map, output: str | None = None) -> Map:
    """x [batch, in] → [batch, out]; of a halved classifier only the inputs that it reads are gathered."""
    if isinstance(layer, CondensedLinear):
        x = graph.gather(x, np.asarray(layer.index[...]))
    bias = None if layer.bias is None else values(layer.bias)
    return graph.linear(x, values(layer.kernel), bias, output)
