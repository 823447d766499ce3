"""What layers cost for one image: the official count of FLOPs and parameters, and true multiply-adds beside it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one image costs; costs add up.

    Attributes:
      flops: by the official convention, the one of all published tables: multiply-adds of convolutions and Linears,
        learned ones divided by the condensation factor; one per element for ReLU and hard-swish, two for sigmoid;
        every value read by an average pool. BatchNorm counts nothing. Of ShuffleNetV2 and MobileNetV2 multiply-adds of
        convolutions and Linears alone, as their papers count.
      params: by the official convention: all parameters, learned kernels divided by the condensation factor; masks,
        indices and running statistics none.
      multiply_adds: of the convolutions and Linears as they are stored: a masked kernel whole, zeros included, a
        condensed one connection by connection. A lowering may multiply more (zeros outside diagonal blocks).
    """

    flops: int = 0
    params: int = 0
    multiply_adds: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.params + other.params, self.multiply_adds + other.multiply_adds)


def area_at(stride: int, height: int, width: int) -> int:
    """Cells of the map of that stride for an image of that size, rounded up along both sides."""
    return -(-height // stride) * -(-width // stride)


def convolution_cost(inputs: int, outputs: int, area: int, *, kernel_area: int = 1, groups: int = 1) -> Cost:
    """A convolution without bias whose output has `area` cells."""
    weights = inputs * outputs * kernel_area // groups
    return Cost(weights * area, weights, weights * area)


def conv_norm_cost(inputs: int, outputs: int, area: int, *, kernel_area: int = 1, groups: int = 1) -> Cost:
    """`ConvNorm`: a convolution and the BatchNorm after it; its activation counts nothing."""
    scale_and_bias = Cost(params=2 * outputs)
    return convolution_cost(inputs, outputs, area, kernel_area=kernel_area, groups=groups) + scale_and_bias


def depthwise_cost(channels: int, area: int) -> Cost:
    """A depthwise 3×3 convolution and its BatchNorm."""
    return conv_norm_cost(channels, channels, area, kernel_area=9, groups=channels)


def learned_cost(inputs: int, outputs: int, factor: int, area: int, *, condensed: bool) -> Cost:
    """The kernel of a learned group convolution or a reactivation of condensation factor `factor`."""
    kept = inputs * outputs // factor
    return Cost(kept * area, kept, (kept if condensed else inputs * outputs) * area)


def linear_cost(inputs: int, outputs: int, *, bias: bool = True) -> Cost:
    """A Linear, once per image."""
    weights = inputs * outputs
    return Cost(weights, weights + (outputs if bias else 0), weights)


def norm_act_cost(channels: int, area: int) -> Cost:
    """BatchNorm and the ReLU or hard-swish after it."""
    return Cost(channels * area, 2 * channels)


def squeeze_excite_cost(channels: int, hidden: int, area: int) -> Cost:
    """Squeeze-and-excitation without biases on a map of `area` cells."""
    pool, relu, sigmoid = channels * area, hidden, 2 * channels
    linears = linear_cost(channels, hidden, bias=False) + linear_cost(hidden, channels, bias=False)
    return linears + elementwise_cost(pool + relu + sigmoid)


def elementwise_cost(operations: int) -> Cost:
    """Operations that multiply nothing, such as those of a pool."""
    return Cost(flops=operations)
