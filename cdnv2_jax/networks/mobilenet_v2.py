"""MobileNetV2 (Sandler et al., CVPR 2018)."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.layers.convolutions import AfterNorm, ConvNorm, kaiming_normal_fan_out, normal
from cdnv2_jax.layers.cost import Cost, area_at, conv_norm_cost, depthwise_cost
from cdnv2_jax.layers.onnx_graph import Graph, Map
from cdnv2_jax.layers.torch_layout import NamedSlots, in_sequence, linear, prefixed
from cdnv2_jax.networks.family import Family, OnnxWriter, TorchFormat
from cdnv2_jax.networks.network import MOST_CHANNELS, MOST_STAGES, MOST_UNITS, Form
from cdnv2_jax.networks.plain_network import (
    PlainArchitecture,
    PlainNetwork,
    in_turn,
    plain_head,
    plain_head_cost,
    plain_maps,
)
from cdnv2_jax.schema import setting, settings


class Unit(NamedTuple):
    """Sizes of an inverted residual; `expanded` is the number of channels in its middle."""

    inputs: int
    expanded: int
    outputs: int
    stride: int


@settings
class MobileNetV2Architecture(PlainArchitecture):
    """The architecture of a MobileNetV2; the defaults are from table 2 of the paper."""

    PER_STAGE: ClassVar[tuple[str, ...]] = ("expansions", "channels", "repeats", "strides")
    UNITS_PER_STAGE: ClassVar[str] = "repeats"

    expansions: tuple[int, ...] = setting(
        "t of each stage: channels in the middle of a unit per input channel",
        default=(1, 6, 6, 6, 6, 6, 6),
        least=1,
        most=64,
        longest=MOST_STAGES,
    )
    channels: tuple[int, ...] = setting(
        "c of each stage: outputs",
        default=(16, 24, 32, 64, 96, 160, 320),
        least=1,
        most=MOST_CHANNELS,
        longest=MOST_STAGES,
    )
    repeats: tuple[int, ...] = setting(
        "n of each stage: number of units",
        default=(1, 2, 3, 4, 3, 3, 1),
        least=1,
        most=MOST_UNITS,
        longest=MOST_STAGES,
    )
    strides: tuple[int, ...] = setting(
        "s of each stage: stride of its first unit",
        default=(1, 2, 2, 2, 1, 2, 1),
        least=1,
        most=2,
        longest=MOST_STAGES,
    )
    stem_channels: int = setting("output channels of the first convolution", default=32, least=1, most=MOST_CHANNELS)
    head_channels: int = setting("output channels of the last convolution", default=1280, least=1, most=MOST_CHANNELS)

    def units(self) -> list[Unit]:
        """Return all units, from the stem to the head."""
        found, inputs = [], self.stem_channels
        stages = zip(self.expansions, self.channels, self.repeats, self.strides, strict=True)
        for expansion, outputs, repeats, stride in stages:
            for number in range(repeats):
                found.append(Unit(inputs, expansion * inputs, outputs, 1 if number else stride))
                inputs = outputs
        return found

    @property
    def unit_strides(self) -> tuple[int, ...]:
        """The stride of each unit's output relative to the image."""
        found, stride = [], 2
        for unit in self.units():
            stride *= unit.stride
            found.append(stride)
        return tuple(found)

    @property
    def feature_channels(self) -> dict[int, int]:
        """Stride → channels of the last unit with that stride."""
        channels = {stride: unit.outputs for stride, unit in zip(self.unit_strides, self.units(), strict=True)}
        return {stride: count for stride, count in channels.items() if stride >= 4}


class InvertedResidual(nnx.Module):
    """1×1 expansion → depthwise 3×3 → 1×1 projection without activation; added to its input if the shapes match.

    Attributes:
      expand: the expansion; None if the middle is as wide as the input.
    """

    def __init__(self, unit: Unit, types: dict[str, Any]):
        expands = unit.expanded != unit.inputs
        self.adds = unit.stride == 1 and unit.inputs == unit.outputs
        self.expand = _conv(unit.inputs, unit.expanded, "relu6", types) if expands else None
        self.depthwise = _conv(
            unit.expanded, unit.expanded, "relu6", types, window=3, stride=unit.stride, depthwise=True
        )
        self.project = _conv(unit.expanded, unit.outputs, "linear", types)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        h = x if self.expand is None else self.expand(x)
        h = self.project(self.depthwise(h, mask))
        return x + h if self.adds else h


class MobileNetV2(PlainNetwork):
    """NHWC images → logits, initialised as in torchvision.

    Dropout before the classifier, which the paper trains with, is omitted, because networks get no random keys here.
    """

    def __init__(
        self,
        architecture: MobileNetV2Architecture,
        *,
        name: str,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(architecture, name=name, dtype=dtype)
        a = architecture
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.stem = _conv(a.in_channels, a.stem_channels, "relu6", types, window=3, stride=2)
        self.units = nnx.List([InvertedResidual(unit, types) for unit in a.units()])
        self.last = _conv(a.channels[-1], a.head_channels, "relu6", types)
        self.classifier = nnx.Linear(a.head_channels, a.num_classes, kernel_init=normal(0.01), **types)


def _conv(inputs: int, outputs: int, activation: AfterNorm, types: dict[str, Any], **window: Any) -> ConvNorm:
    init = kaiming_normal_fan_out(outputs, receptive_field=window.get("window", 1) ** 2)
    return ConvNorm(inputs, outputs, activation=activation, kernel_init=init, **window, **types)


def mobilenet_v2_cost(a: MobileNetV2Architecture, form: Form, height: int, width: int) -> tuple[Cost, Cost]:
    """Return the costs, as the paper counts, of the body, which computes the feature maps, and of the head."""
    before = area_at(2, height, width)
    body = conv_norm_cost(a.in_channels, a.stem_channels, before, kernel_area=9)
    for unit, stride in zip(a.units(), a.unit_strides, strict=True):
        area = area_at(stride, height, width)
        if unit.expanded != unit.inputs:
            body += conv_norm_cost(unit.inputs, unit.expanded, before)
        body += depthwise_cost(unit.expanded, area) + conv_norm_cost(unit.expanded, unit.outputs, area)
        before = area
    return body, plain_head_cost(a.channels[-1], a.head_channels, a.num_classes, before)


def mobilenet_v2_slots(model: MobileNetV2) -> NamedSlots:
    """Yield the slots of every tensor in torchvision's state_dict."""
    yield from prefixed("features.0", in_sequence([model.stem]))
    for number, unit in enumerate(model.units, start=1):
        yield from prefixed(f"features.{number}.conv", _unit_slots(unit))
    yield from prefixed(f"features.{len(model.units) + 1}", in_sequence([model.last]))
    yield from prefixed("classifier.1", linear(model.classifier))


def _unit_slots(unit: InvertedResidual) -> NamedSlots:
    # Convolutions with an activation are nested sequences; the projection and its BatchNorm are direct entries.
    activated = [conv for conv in (unit.expand, unit.depthwise) if conv is not None]
    for number, conv in enumerate(activated):
        yield from prefixed(str(number), in_sequence([conv]))
    yield from in_sequence([unit.project], start=len(activated))


def _unit_nodes(graph: Graph, unit: InvertedResidual, x: Map) -> Map:
    convs = [unit.depthwise, unit.project] if unit.expand is None else [unit.expand, unit.depthwise, unit.project]
    h = in_turn(graph, convs, x)
    return graph.apply("Add", x, h) if unit.adds else h


FAMILY = Family(
    "mobilenet_v2",
    MobileNetV2Architecture,
    MobileNetV2,
    cost=mobilenet_v2_cost,
    torch=TorchFormat(mobilenet_v2_slots, classifier=("classifier.1.weight",), stem=("features.0.0.weight",)),
    onnx=OnnxWriter(lambda graph, network, images: plain_maps(graph, network, images, _unit_nodes), plain_head),
)
