"""Costs of layers for one image: FLOPs and parameters as the official code counts them, and actual multiply-adds."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one image; costs can be added.

    Attributes:
      flops: by the official convention, used in all published tables: multiply-adds of convolutions and Linears,
        learned ones divided by the condensation factor; one per element for ReLU and hard-swish, two for sigmoid;
        every value read by an average pool. BatchNorm is not counted. For ShuffleNetV2 and MobileNetV2, only the
        multiply-adds of convolutions and Linears, as in their papers.
      params: by the official convention: all parameters, learned kernels divided by the condensation factor; masks,
        indices and running statistics are not counted.
      multiply_adds: multiply-adds of convolutions and Linears as they are stored: all of a masked kernel, zeros
        included, and the connections of a condensed one. Lowerings may also multiply zeros outside diagonal blocks.
    """

    flops: int = 0
    params: int = 0
    multiply_adds: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.params + other.params, self.multiply_adds + other.multiply_adds)


def area_at(stride: int, height: int, width: int) -> int:
    """Return the number of cells of the map with that stride, rounding height and width up."""
    return -(-height // stride) * -(-width // stride)


def convolution_cost(inputs: int, outputs: int, area: int, *, kernel_area: int = 1, groups: int = 1) -> Cost:
    """Return the cost of a convolution without bias whose output has `area` cells."""
    weights = inputs * outputs * kernel_area // groups
    return Cost(weights * area, weights, weights * area)


def conv_norm_cost(inputs: int, outputs: int, area: int, *, kernel_area: int = 1, groups: int = 1) -> Cost:
    """Return the cost of a `ConvNorm`, a convolution and a BatchNorm; its activation is not counted."""
    scale_and_bias = Cost(params=2 * outputs)
    return convolution_cost(inputs, outputs, area, kernel_area=kernel_area, groups=groups) + scale_and_bias


def depthwise_cost(channels: int, area: int) -> Cost:
    """Return the cost of a depthwise 3×3 convolution and its BatchNorm."""
    return conv_norm_cost(channels, channels, area, kernel_area=9, groups=channels)


def learned_cost(inputs: int, outputs: int, factor: int, area: int, *, condensed: bool) -> Cost:
    """Return the cost of the kernel of an LGC or SFR with condensation factor `factor`."""
    kept = inputs * outputs // factor
    return Cost(kept * area, kept, (kept if condensed else inputs * outputs) * area)


def linear_cost(inputs: int, outputs: int, *, bias: bool = True) -> Cost:
    """Return the cost of a Linear that is applied once per image."""
    weights = inputs * outputs
    return Cost(weights, weights + (outputs if bias else 0), weights)


def norm_act_cost(channels: int, area: int) -> Cost:
    """Return the cost of a BatchNorm and the ReLU or hard-swish after it."""
    return Cost(channels * area, 2 * channels)


def squeeze_excite_cost(channels: int, hidden: int, area: int) -> Cost:
    """Return the cost of squeeze-and-excitation without biases on a map of `area` cells."""
    pool, relu, sigmoid = channels * area, hidden, 2 * channels
    linears = linear_cost(channels, hidden, bias=False) + linear_cost(hidden, channels, bias=False)
    return linears + elementwise_cost(pool + relu + sigmoid)


def elementwise_cost(operations: int) -> Cost:
    """Return the cost of operations that count as FLOPs only, such as pooling."""
    return Cost(flops=operations)
