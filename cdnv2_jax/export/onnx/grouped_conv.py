"""Grouped 3×3 convolutions, in the form that ONNX Runtime computes fastest.

Its fast kernels for CPUs take 16 channels at a time: of a convolution with groups of fewer they make nothing, and the
general way that is left spends its time on copying. What was measured on cdnv2_a, b and c, one thread, is beside each
choice below; all forms give the same result.
"""

import numpy as np

from cdnv2_jax.export.onnx.fold import merge_groups
from cdnv2_jax.export.onnx.graph import Graph, Map

FEW_OUTPUTS = 4
"""Up to so many outputs of a group, depthwise convolutions and sums. With one or two they take a quarter to a half of
the time of a dense kernel with zeros, which is no slower than the grouped one; with four as long."""
BLOCK = 16
"""Groups with more outputs are merged until they read and give a multiple of this many channels. With 8 outputs two are
merged: less than half the time, for twice the multiplications."""


def grouped_conv(graph: Graph, kernel: np.ndarray, groups: int, x: Map, order: np.ndarray) -> Map:
    """[b, in, h, w] → [b, out, h, w].

    Args:
      kernel: [out, in / groups, 3, 3].
      order: int [in], which of the convolution's inputs lies at each place of x.
    """
    outputs, inputs, *_ = kernel.shape
    if groups > 1 and outputs // groups <= FEW_OUTPUTS:
        return depthwise_sums(graph, kernel, groups, x, order)
    merged = next(
        (n for n in range(1, groups) if groups % n == 0 and not (n * inputs % BLOCK or n * outputs // groups % BLOCK)),
        groups,
    )
    kernel = merge_groups(kernel, groups, merged)
    if merged == groups:
        return graph.conv(x, kernel[:, order])
    return graph.conv(in_order(graph, x, order), kernel, groups=groups // merged)


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
