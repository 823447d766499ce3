"""Grouped 3×3 convolutions, in the form that ONNX Runtime computes fastest; all forms give the same result.

Its fast kernels for CPUs take 16 channels at a time. To groups of fewer they do not apply, and the general way that is
left spends its time on copying (3×3 of cdnv2_c's second block: 4.3 ms, as one dense kernel 3.0, by depthwise
convolutions 1.4; one thread, one image).
"""

import numpy as np

from cdnv2_jax.export.onnx.fold import merge_groups
from cdnv2_jax.export.onnx.graph import Graph, Map

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
