"""FLOPs and parameters: the official convention, exact to the unit, and true multiply-adds beside it."""

import dataclasses
import math

from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.condensenet.architecture import Architecture
from cdnv2_jax.networks.condensenet.dense_layer import Form
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.family import AnyArchitecture, AnyNetwork
from cdnv2_jax.networks.mobilenet_v2 import MobileNetV2Architecture
from cdnv2_jax.networks.shufflenet_v2 import ShuffleNetV2Architecture


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


def count_flops(model: AnyNetwork, image_size: int | tuple[int, int]) -> Cost:
    """The cost of one image, masked or condensed as `model` is.

    Follows the official counting (`measure_model`) rule for rule; see `Cost` for what is counted.

    Args:
      model: any network of `create_model`, `condense`, `load` or `load_torch_checkpoint`.
      image_size: side of a square image in pixels, or (height, width).

    Raises:
      UserError: nothing would be left of so small an image.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    model.architecture.check_image(height, width)
    return network_cost(model.architecture, model.form if isinstance(model, CondenseNet) else Form(), height, width)


def network_cost(a: AnyArchitecture, form: Form, height: int, width: int) -> Cost:
    """`count_flops` of a network that need not exist; `form` is that of a CondenseNet."""
    return body_cost(a, form, height, width) + _head(a, form, math.prod(a.smallest_map(height, width)))


def body_cost(a: AnyArchitecture, form: Form, height: int, width: int) -> Cost:
    """The part of `network_cost` that leads to the feature maps of `features`."""
    if isinstance(a, ShuffleNetV2Architecture):
        return _shufflenet_v2(a, height, width)
    if isinstance(a, MobileNetV2Architecture):
        return _mobilenet_v2(a, height, width)
    return _condensenet(a, form, height, width)


def _condensenet(a: Architecture, form: Form, height: int, width: int) -> Cost:
    areas = [a.map_side(block, height) * a.map_side(block, width) for block in range(len(a.stages))]
    total = _convolution(3, a.stem_channels, areas[0], kernel_area=9)
    for block, _, channels, growth in a.dense_layers():
        total += _dense_layer(a, form, block, channels, growth, areas[block])
    channels = a.stem_channels
    for layers, growth, area in zip(a.stages[:-1], a.growth[:-1], areas[1:], strict=True):
        channels += layers * growth
        total += _elementwise(4 * channels * area)  # the 2×2 average pool between blocks
    return total + _norm_act(a.out_channels, areas[-1])


def _dense_layer(a: Architecture, form: Form, block: int, channels: int, growth: int, area: int) -> Cost:
    wide = a.bottleneck * growth
    gathered = a.lgc_groups * channels // a.lgc_factor if form.condensed else channels
    cost = _norm_act(gathered, area)
    cost += _learned(channels * wide, a.lgc_factor, form, area)
    cost += _norm_act(wide, area)
    cost += _convolution(wide, growth, area, kernel_area=9, groups=a.conv_groups)
    if a.has_squeeze_excite(block):
        cost += _squeeze_excite(growth, growth, area)
    if a.sfr_factor is not None:
        cost += _norm_act(growth, area)
        cost += _learned(channels * growth, a.sfr_factor, form, area)
    return cost


def _head(a: AnyArchitecture, form: Form, area: int) -> Cost:
    if isinstance(a, Architecture):
        return _condensenet_head(a, form, area)
    bias = not isinstance(a, ShuffleNetV2Architecture) or a.variant == "torchvision"
    cost = _conv_norm(a.units()[-1].outputs, a.head_channels, area)
    return cost + _linear(a.head_channels, a.num_classes, bias=bias)


def _condensenet_head(a: Architecture, form: Form, area: int) -> Cost:
    if form.halved_classifier and a.head_width is not None:
        raise UserError("only CondenseNet (v1) has a halved classifier")
    features = a.out_channels
    cost = _elementwise(features * area)  # the last pool reads every value once
    if a.head_width is None:
        inputs = features // 2 if form.halved_classifier else features
        cost += _linear(inputs, a.num_classes, bias=True)
        # Only the older code counts the bias among the operations.
        return cost + _elementwise(a.num_classes)
    cost += _squeeze_excite(features, features // a.head_reduction, area=1)
    cost += _linear(features, a.head_width, bias=True) + _elementwise(a.head_width)
    return cost + _linear(a.head_width, a.num_classes, bias=True)


def _shufflenet_v2(a: ShuffleNetV2Architecture, height: int, width: int) -> Cost:
    total = _conv_norm(3, a.stem_channels, _area(height, width, 2), kernel_area=9)
    before = _area(height, width, 4)
    for unit, stride in zip(a.units(), a.unit_strides, strict=True):
        area = _area(height, width, stride)
        total += _conv_norm(unit.read, unit.middle, before) + _depthwise(unit.middle, area)
        total += _conv_norm(unit.middle, unit.outputs - unit.kept, area)
        if unit.stride == 2:
            total += _depthwise(unit.inputs, area) + _conv_norm(unit.inputs, unit.kept, area)
        before = area
    return total


def _mobilenet_v2(a: MobileNetV2Architecture, height: int, width: int) -> Cost:
    before = _area(height, width, 2)
    total = _conv_norm(3, a.stem_channels, before, kernel_area=9)
    for unit, stride in zip(a.units(), a.unit_strides, strict=True):
        area = _area(height, width, stride)
        if unit.expanded != unit.inputs:
            total += _conv_norm(unit.inputs, unit.expanded, before)
        total += _depthwise(unit.expanded, area) + _conv_norm(unit.expanded, unit.outputs, area)
        before = area
    return total


def _area(height: int, width: int, stride: int) -> int:
    return -(-height // stride) * -(-width // stride)


def _conv_norm(inputs: int, outputs: int, area: int, *, kernel_area: int = 1, groups: int = 1) -> Cost:
    scale_and_bias = Cost(params=2 * outputs)
    return _convolution(inputs, outputs, area, kernel_area=kernel_area, groups=groups) + scale_and_bias


def _depthwise(channels: int, area: int) -> Cost:
    return _conv_norm(channels, channels, area, kernel_area=9, groups=channels)


def _convolution(inputs: int, outputs: int, area: int, *, kernel_area: int, groups: int = 1) -> Cost:
    weights = inputs * outputs * kernel_area // groups
    return Cost(weights * area, weights, weights * area)


def _learned(weights: int, factor: int, form: Form, area: int) -> Cost:
    kept = weights // factor
    return Cost(kept * area, kept, (kept if form.condensed else weights) * area)


def _linear(inputs: int, outputs: int, *, bias: bool) -> Cost:
    weights = inputs * outputs
    return Cost(weights, weights + (outputs if bias else 0), weights)


def _norm_act(channels: int, area: int) -> Cost:
    return Cost(channels * area, 2 * channels)


def _squeeze_excite(channels: int, hidden: int, area: int) -> Cost:
    pool, relu, sigmoid = channels * area, hidden, 2 * channels
    linears = _linear(channels, hidden, bias=False) + _linear(hidden, channels, bias=False)
    return linears + _elementwise(pool + relu + sigmoid)


def _elementwise(operations: int) -> Cost:
    return Cost(flops=operations)
