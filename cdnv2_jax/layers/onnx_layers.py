"""Conversion of each layer to ONNX nodes."""

import numpy as np
from flax import nnx

from cdnv2_jax.layers.condensed import (
    CondensedGroupConv,
    CondensedLinear,
    CondensedReactivation,
    dense_on_host,
)
from cdnv2_jax.layers.convolutions import AfterNorm, ConvNorm, DepthwiseConv, SqueezeExcite
from cdnv2_jax.layers.learned import LearnedGroupConv, SparseFeatureReactivation
from cdnv2_jax.layers.norm import ActivationName, BatchNorm
from cdnv2_jax.layers.onnx_graph import (
    Graph,
    Map,
    Norm,
    fold,
    masked_kernel,
    merge_groups,
    norm_of,
    pointwise_kernel,
    values,
    window_kernel,
)


def activate(graph: Graph, x: Map, name: ActivationName | AfterNorm) -> Map:
    """Add the activation called `name`."""
    if name == "linear":
        return x
    if name == "relu6":
        limits = [graph.number(limit) for limit in (0, 6)]
        return x.then(graph.add("Clip", x.name, *limits))
    return graph.apply({"relu": "Relu", "hard_swish": "HardSwish"}[name], x)


def conv_norm(graph: Graph, layer: ConvNorm, x: Map) -> Map:
    """Add a convolution with the normalisation folded into it, then the activation."""
    kernel, bias = fold(window_kernel(layer.conv.kernel), norm_of(layer.norm))
    if isinstance(layer.conv, DepthwiseConv):
        groups, stride = x.channels, layer.conv.stride
    else:
        groups, stride = 1, conv_stride(layer.conv)
    return activate(graph, graph.conv(x, kernel, bias, groups=groups, stride=stride), layer.activation)


def biased_conv(graph: Graph, layer: nnx.Conv, x: Map) -> Map:
    """Add a convolution with bias, without normalisation or activation."""
    assert layer.bias is not None
    return graph.conv(x, window_kernel(layer.kernel), values(layer.bias), stride=conv_stride(layer))


def conv_stride(layer: nnx.Conv) -> int:
    """Return a convolution's stride, which is the same along both axes."""
    stride, _ = np.broadcast_to(layer.strides or 1, 2)
    return int(stride)


def squeeze_excite(graph: Graph, layer: SqueezeExcite, x: Map) -> Map:
    """Add squeeze-and-excitation, which multiplies every channel by its gate."""
    with graph.scope("se"):
        return gated(graph, layer, x, graph.apply("GlobalAveragePool", x))


def gated(graph: Graph, layer: SqueezeExcite, x: Map, mean: Map) -> Map:
    """Multiply x by the gates computed from its mean [batch, channels, 1, 1]."""
    hidden = graph.apply("Relu", graph.conv(mean, pointwise_kernel(layer.squeeze.kernel)))
    gates = graph.apply("Sigmoid", graph.conv(hidden, pointwise_kernel(layer.excite.kernel)))
    return graph.apply("Mul", x, gates)


def linear(graph: Graph, layer: nnx.Linear | CondensedLinear, x: Map, output: str | None = None) -> Map:
    """Add a Linear, x [batch, in] → [batch, out]; a halved classifier first gathers the inputs that it reads."""
    if isinstance(layer, CondensedLinear):
        x = graph.gather(x, np.asarray(layer.index[...]))
    bias = None if layer.bias is None else values(layer.bias)
    return graph.linear(x, values(layer.kernel), bias, output)


BLOCK = 16
"""The fast kernels need groups with a multiple of this many inputs and outputs."""


def grouped_conv(graph: Graph, kernel: np.ndarray, groups: int, x: Map, order: np.ndarray) -> Map:
    """Add a grouped convolution, [b, in, h, w] → [b, out, h, w].

    Args:
      kernel: [out, in / groups, 3, 3].
      order: int [in], the convolution's input channel at each position of x.
    """
    merged = merged_for_speed(kernel, groups)
    # Costs: a depthwise convolution for each output of a group, or `merged` times the multiplications of a grouped one.
    if len(kernel) // groups < merged:
        return depthwise_sums(graph, kernel, groups, x, order)
    kernel = merge_groups(kernel, groups, merged)
    if merged == groups:
        return graph.conv(x, kernel[:, order])
    return graph.conv(in_order(graph, x, order), kernel, groups=groups // merged)


def merged_for_speed(kernel: np.ndarray, groups: int) -> int:
    """Return how many groups to merge into one, padded with zeros, for the fast kernels; all if no fewer suffice."""
    outputs, inputs, *_ = kernel.shape
    for merged in range(1, groups):
        if groups % merged == 0 and merged * inputs % BLOCK == 0 and merged * outputs // groups % BLOCK == 0:
            return merged
    return groups


def depthwise_sums(graph: Graph, kernel: np.ndarray, groups: int, x: Map, order: np.ndarray) -> Map:
    """Add a grouped convolution as one depthwise convolution per output of a group, each summed over every group."""
    outputs, inputs, *window = kernel.shape
    each = outputs // groups
    group = order // inputs
    total = None
    for number in range(each):
        output = group * each + number
        channelwise = graph.conv(x, kernel[output, order % inputs].reshape(-1, 1, *window), groups=x.channels)
        belongs = (np.arange(outputs)[:, None] == output).astype(np.float64)
        sums = graph.conv(channelwise, belongs[:, :, None, None])
        total = sums if total is None else graph.apply("Add", total, sums)
    assert total is not None
    return total


def in_order(graph: Graph, x: Map, order: np.ndarray) -> Map:
    """Reorder the channels of x, so that input i of the convolution is at position i."""
    return x if (np.diff(order) == 1).all() else graph.gather(x, np.argsort(order))


GATHERED_FROM = 16
"""Minimum number of outputs per group for a condensed layer to gather what its groups read. With fewer, gathering takes
longer than multiplying all channels, mostly by zero (cdnv2_a, b and c on a CPU: 0 to 10 % of the network's time)."""


def learned_group_conv(
    graph: Graph, layer: LearnedGroupConv | CondensedGroupConv, following: BatchNorm | None, x: Map
) -> tuple[Map, np.ndarray]:
    """Add an LGC and the BatchNorm that follows, if any; return the map and int [out], the output at each position."""
    after = None if following is None else norm_of(following)
    if isinstance(layer, LearnedGroupConv):
        kernel = masked_kernel(layer)
        return dense(graph, layer, norm_of(layer.norm), kernel, after, x)
    if layer.input_norm is None or layer.kernel.shape[-1] >= GATHERED_FROM:
        return gathered(graph, layer, after, x)
    kernel = dense_on_host(values(layer.kernel).transpose(0, 2, 1), np.asarray(layer.index[...]), layer.in_channels)
    return dense(graph, layer, norm_of(layer.input_norm), kernel[:, :, None, None], after, x)


def dense(
    graph: Graph,
    layer: LearnedGroupConv | CondensedGroupConv,
    before: Norm,
    kernel: np.ndarray,
    after: Norm | None,
    x: Map,
) -> tuple[Map, np.ndarray]:
    """Add an LGC as one convolution by a kernel [out, in, 1, 1], zero where there is no connection."""
    h = activate(graph, graph.norm(x, before), layer.activation)
    return graph.conv(h, *fold(kernel, after)), np.arange(len(kernel))


def gathered(graph: Graph, layer: CondensedGroupConv, after: Norm | None, x: Map) -> tuple[Map, np.ndarray]:
    """Add a condensed LGC as a gather and a grouped convolution; its outputs are ordered by group."""
    groups, kept, outputs = layer.kernel.shape
    read = np.asarray(layer.index[...]).reshape(-1)
    if layer.norm is not None:
        before = norm_of(layer.norm)
    else:
        assert layer.input_norm is not None
        before = norm_of(layer.input_norm).of(read)
    h = activate(graph, graph.norm(graph.gather(x, read), before), layer.activation)
    order = np.arange(groups * outputs).reshape(outputs, groups).T.reshape(-1)
    kernel = values(layer.kernel).transpose(0, 2, 1).reshape(groups * outputs, kept, 1, 1)
    return graph.conv(h, *fold(kernel, None if after is None else after.of(order)), groups=groups), order


def reactivated(graph: Graph, layer: SparseFeatureReactivation | CondensedReactivation, x: Map, h: Map) -> Map:
    """Add SFR: return x plus the update from the new features h, one dense product whether condensed or not."""
    if isinstance(layer, CondensedReactivation):
        by_input = dense_on_host(values(layer.kernel), np.asarray(layer.index[...]), layer.out_channels)
        kernel = by_input.T[:, :, None, None]
    else:
        kernel = masked_kernel(layer)
    h = activate(graph, graph.norm(h, norm_of(layer.norm)), layer.activation)
    return graph.apply("Add", x, graph.conv(h, kernel))
