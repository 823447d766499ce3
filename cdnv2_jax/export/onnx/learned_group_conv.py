"""Learned group convolutions, masked and condensed, with the normalisation of what they give."""

import numpy as np

from cdnv2_jax.export.onnx.fold import Norm, fold, norm_of, pointwise_kernel, spread, values
from cdnv2_jax.export.onnx.graph import Graph, Map
from cdnv2_jax.export.onnx.layers import activate
from cdnv2_jax.layers.batch_norm import BatchNorm
from cdnv2_jax.layers.condensed import CondensedGroupConv
from cdnv2_jax.layers.learned_group_conv import LearnedGroupConv

GATHERED_FROM = 16
"""Outputs of a group from which on a condensed layer gathers what its groups read; with fewer, gathering takes longer
than to multiply all channels, mostly by zero (cdnv2_a, b and c on a CPU: 0 to 10 % of the whole network's time)."""


def learned_group_conv(
    graph: Graph, layer: LearnedGroupConv | CondensedGroupConv, following: BatchNorm, x: Map
) -> tuple[Map, np.ndarray]:
    """The convolution's outputs, normalised by what follows, and int [out]: which of them lies at each place."""
    after = norm_of(following)
    if isinstance(layer, LearnedGroupConv):
        kernel = pointwise_kernel(layer.kernel[...] * layer.kernel_mask())
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
    after: Norm,
    x: Map,
) -> tuple[Map, np.ndarray]:
    """One kernel [out, in, 1, 1] for all groups, zeros where there is no connection."""
    h = activate(graph, graph.norm(x, before), layer.activation)
    return graph.conv(h, *fold(kernel, after)), np.arange(len(kernel))


def gathered(graph: Graph, layer: CondensedGroupConv, after: Norm, x: Map) -> tuple[Map, np.ndarray]:
    """What the groups read, group by group, then a grouped convolution, whose outputs come group by group, too."""
    groups, kept, outputs = layer.kernel.shape
    h = graph.gather(x, np.asarray(layer.index[...]).reshape(-1))
    h = activate(graph, graph.norm(h, norm_of(layer.norm)), layer.activation)
    order = np.arange(groups * outputs).reshape(outputs, groups).T.reshape(-1)
    kernel = values(layer.kernel).transpose(0, 2, 1).reshape(groups * outputs, kept, 1, 1)
    return graph.conv(h, *fold(kernel, after.of(order)), groups=groups), order


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
