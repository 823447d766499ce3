"""Each layer as ONNX nodes."""

import numpy as np
from flax import nnx

from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedLinear, CondensedReactivation
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
    spread,
    values,
    window_kernel,
)


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


BLOCK = 16
"""Of inputs and of outputs groups must have a multiple."""


def grouped_conv(graph: Graph, kernel: np.ndarray, groups: int, x: Map, order: np.ndarray) -> Map:
    """[b, in, h, w] → [b, out, h, w].

    Args:
      kernel: [out, in / groups, 3, 3].
      order: int [in], which of the convolution's inputs lies at each place of x.
    """
    merged = merged_for_speed(kernel, groups)
    # Each output of a group takes a depthwise convolution, each merged group as much again of the multiplications.
    if len(kernel) // groups < merged:
        return depthwise_sums(graph, kernel, groups, x, order)
    kernel = merge_groups(kernel, groups, merged)
    if merged == groups:
        return graph.conv(x, kernel[:, order])
    return graph.conv(in_order(graph, x, order), kernel, groups=groups // merged)


def merged_for_speed(kernel: np.ndarray, groups: int) -> int:
    """How many groups to merge into one, filled up with zeros, for the fast kernels; all where nothing less will do."""
    outputs, inputs, *_ = kernel.shape
    for merged in range(1, groups):
        if groups % merged == 0 and merged * inputs % BLOCK == 0 and merged * outputs // groups % BLOCK == 0:
            return merged
    return groups


def depthwise_sums(graph: Graph, kernel: np.ndarray, groups: int, x: Map, order: np.ndarray) -> Map:
    """For the first, second, … output of all groups, every channel convolved by itself, then summed group by group."""
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
    """x with every channel at its own place."""
    return x if (np.diff(order) == 1).all() else graph.gather(x, np.argsort(order))


GATHERED_FROM = 16
"""Outputs of a group from which on a condensed layer gathers what its groups read; with fewer, gathering takes longer
than to multiply all channels, mostly by zero (cdnv2_a, b and c on a CPU: 0 to 10 % of the whole network's time)."""


def learned_group_conv(
    graph: Graph, layer: LearnedGroupConv | CondensedGroupConv, following: BatchNorm | None, x: Map
) -> tuple[Map, np.ndarray]:
    """The outputs, normalised by the BatchNorm that follows, if any; int [out]: which lies at each place."""
    after = None if following is None else norm_of(following)
    if isinstance(layer, LearnedGroupConv):
        kernel = masked_kernel(layer)
        return dense(graph, layer, norm_of(layer.norm), kernel, after, x)
    before = norm_of_all_channels(layer)
    if before is None or layer.kernel.shape[-1] >= GATHERED_FROM:
        return gathered(graph, layer, after, x)
    kernel = spread(values(layer.kernel).transpose(0, 2, 1), np.asarray(layer.index[...]), layer.in_channels)
    return dense(graph, layer, before, kernel[:, :, None, None], after, x)


def dense(
    graph: Graph,
    layer: LearnedGroupConv | CondensedGroupConv,
    before: Norm,
    kernel: np.ndarray,
    after: Norm | None,
    x: Map,
) -> tuple[Map, np.ndarray]:
    """One kernel [out, in, 1, 1] for all groups, zeros where there is no connection."""
    h = activate(graph, graph.norm(x, before), layer.activation)
    return graph.conv(h, *fold(kernel, after)), np.arange(len(kernel))


def gathered(graph: Graph, layer: CondensedGroupConv, after: Norm | None, x: Map) -> tuple[Map, np.ndarray]:
    """What the groups read, group by group, then a grouped convolution, whose outputs come group by group, too."""
    groups, kept, outputs = layer.kernel.shape
    h = graph.gather(x, np.asarray(layer.index[...]).reshape(-1))
    h = activate(graph, graph.norm(h, norm_of(layer.norm)), layer.activation)
    order = np.arange(groups * outputs).reshape(outputs, groups).T.reshape(-1)
    kernel = values(layer.kernel).transpose(0, 2, 1).reshape(groups * outputs, kept, 1, 1)
    return graph.conv(h, *fold(kernel, None if after is None else after.of(order)), groups=groups), order


def norm_of_all_channels(layer: CondensedGroupConv) -> Norm | None:
    """The normalisation of the channels before they are gathered; None where groups normalise one differently.

    That may come of training a condensed network. Channels that no group reads become 0.
    """
    read = np.asarray(layer.index[...]).reshape(-1)
    each = norm_of(layer.norm)
    zero, one = np.zeros(layer.in_channels), np.ones(layer.in_channels)
    whole = Norm(zero, zero.copy(), zero.copy(), one)
    for part, of_read in zip(whole, each, strict=True):
        part[read] = of_read
    same = all((part[read] == of_read).all() for part, of_read in zip(whole, each, strict=True))
    return whole if same else None


def reactivated(graph: Graph, layer: SparseFeatureReactivation | CondensedReactivation, x: Map, h: Map) -> Map:
    """x plus what the new features h add to it; condensed or not, one product puts all results where they belong."""
    if isinstance(layer, CondensedReactivation):
        by_input = spread(values(layer.kernel), np.asarray(layer.index[...]), layer.out_channels)
        kernel = by_input.T[:, :, None, None]
    else:
        kernel = masked_kernel(layer)
    h = activate(graph, graph.norm(h, norm_of(layer.norm)), layer.activation)
    return graph.apply("Add", x, graph.conv(h, kernel))
