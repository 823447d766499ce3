"""ShuffleNetV2 (Ma et al., ECCV 2018), in the authors' variant and in torchvision's."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.convolutions import ConvNorm, normal
from cdnv2_jax.layers.cost import Cost, area_at, conv_norm_cost, depthwise_cost
from cdnv2_jax.layers.onnx_graph import Graph, Map
from cdnv2_jax.layers.torch_layout import NamedSlots, in_sequence, linear, prefixed
from cdnv2_jax.layers.valid_region import at_stride, inside
from cdnv2_jax.networks.family import Family, OnnxWriter, TorchFormat
from cdnv2_jax.networks.network import MOST_CHANNELS, MOST_UNITS, Form
from cdnv2_jax.networks.plain_network import (
    PlainArchitecture,
    PlainNetwork,
    in_turn,
    plain_head,
    plain_head_cost,
    plain_maps,
)
from cdnv2_jax.schema import setting, settings

Variant = Literal["megvii", "torchvision"]
NORM_BIAS = 1e-4  # initial value in the authors' code


class Unit(NamedTuple):
    """Sizes of a unit; `kept` outputs come from the projection or, with stride 1, are passed through unchanged."""

    inputs: int
    kept: int
    outputs: int
    stride: int

    @property
    def read(self) -> int:
        """Input channels of the main branch: all, or the half that is not passed through unchanged."""
        return self.inputs if self.stride == 2 else self.inputs // 2

    @property
    def middle(self) -> int:
        """Channels in the middle of the main branch."""
        return self.outputs // 2


@settings
class ShuffleNetV2Architecture(PlainArchitecture):
    """The architecture of a ShuffleNetV2.

    The variants differ in three ways. In megvii, the first unit of a stage projects its inputs to the same number of
    channels, later units keep the even channels and compute from the odd ones, and the classifier has no bias. In
    torchvision, the first unit projects its inputs to half of the outputs, later units keep the first half of the
    channels and compute from the second, all units interleave the two halves, and the classifier has a bias.
    """

    UNITS_PER_STAGE: ClassVar[str] = "stage_units"

    stage_channels: tuple[int, int, int] = setting(
        "channels of the three stages", default=(116, 232, 464), least=1, most=MOST_CHANNELS
    )
    stage_units: tuple[int, int, int] = setting(
        "units in each of the three stages", default=(4, 8, 4), least=1, most=MOST_UNITS
    )
    stem_channels: int = setting("output channels of the first convolution", default=24, least=1, most=MOST_CHANNELS)
    head_channels: int = setting("output channels of the last convolution", default=1024, least=1, most=MOST_CHANNELS)
    variant: Variant = setting(
        "implementation to follow: the authors' (megvii, with the published figures) or torchvision's", default="megvii"
    )

    def check_together(self) -> None:
        for unit in self.units():
            if unit.outputs % 2 or unit.kept >= unit.outputs:
                raise UserError(
                    f"stage_channels {self.stage_channels}: a stage must have an even number of channels, "
                    f"and more than the {unit.inputs} it reads"
                )

    def units(self) -> list[Unit]:
        """Return all units, from the stem to the head."""
        found, channels = [], self.stem_channels
        for outputs, count in zip(self.stage_channels, self.stage_units, strict=True):
            kept = channels if self.variant == "megvii" else outputs // 2
            found.append(Unit(channels, kept, outputs, stride=2))
            found += [Unit(outputs, outputs // 2, outputs, stride=1)] * (count - 1)
            channels = outputs
        return found

    @property
    def unit_strides(self) -> tuple[int, ...]:
        """The stride of each unit's output relative to the image."""
        return tuple(stride for stride, count in zip((8, 16, 32), self.stage_units, strict=True) for _ in range(count))

    @property
    def feature_channels(self) -> dict[int, int]:
        """Stride → channels of the outputs of the max-pool and of the stages."""
        return dict(zip((4, 8, 16, 32), (self.stem_channels, *self.stage_channels), strict=True))


class ShuffleUnit(nnx.Module):
    """A ShuffleNetV2 unit: [b, h, w, inputs] → [b, h, w, outputs], with stride 2 on a map half as large."""

    def __init__(self, unit: Unit, variant: Variant, types: dict[str, Any]):
        self.variant: Variant = variant
        self.projection = None if unit.stride == 1 else _projection(unit, types)
        self.main = nnx.List(
            [
                _pointwise(unit.read, unit.middle, types),
                _depthwise(unit.middle, unit.stride, types),
                _pointwise(unit.middle, unit.outputs - unit.kept, types),
            ]
        )

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        if self.projection is None:
            kept, x = self._halves(x)
        else:
            kept = _in_turn(self.projection, x, mask)
        x = _in_turn(self.main, x, mask)
        joined = jnp.concatenate([kept, x], axis=-1)
        return interleaved(joined) if self.variant == "torchvision" else joined

    def _halves(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        if self.variant == "megvii":
            return x[..., 0::2], x[..., 1::2]
        first, second = jnp.split(x, 2, axis=-1)
        return first, second


def _in_turn(convs: nnx.List, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    for conv in convs:
        # After a stride the mask is too large, but only 1×1 convolutions follow, and they ignore it.
        x = conv(x, mask)
    return x


def interleaved(x: jax.Array) -> jax.Array:
    """Shuffle the channels of two groups of n: 0, n, 1, n + 1, …."""
    return x.reshape(*x.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(x.shape)


class ShuffleNetV2(PlainNetwork):
    """NHWC images → logits. Both variants are initialised as in the authors' code."""

    architecture: ShuffleNetV2Architecture  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        architecture: ShuffleNetV2Architecture,
        *,
        name: str,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(architecture, name=name, dtype=dtype)
        a = architecture
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.stem = ConvNorm(
            a.in_channels,
            a.stem_channels,
            window=3,
            stride=2,
            activation="relu",
            kernel_init=normal(0.01),
            norm_bias=NORM_BIAS,
            **types,
        )
        self.units = nnx.List([ShuffleUnit(unit, a.variant, types) for unit in a.units()])
        self.last = _pointwise(a.stage_channels[-1], a.head_channels, types)
        self.classifier = nnx.Linear(
            a.head_channels, a.num_classes, use_bias=a.variant == "torchvision", kernel_init=normal(0.01), **types
        )

    def _first_map(self, images: jax.Array, region: jax.Array | None) -> tuple[int, jax.Array]:
        """Return stride 4 and the output of the max-pool."""
        # Zeros beyond the region work as well as −∞ beyond the edges, because a ReLU's outputs are not negative.
        x = inside(self.stem(images, region), at_stride(region, 2))
        window, strides, padding = (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        return 4, jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)


def _projection(unit: Unit, types: dict[str, Any]) -> nnx.List:
    return nnx.List([_depthwise(unit.inputs, unit.stride, types), _pointwise(unit.inputs, unit.kept, types)])


def _pointwise(inputs: int, outputs: int, types: dict[str, Any]) -> ConvNorm:
    init = normal(1 / inputs)
    return ConvNorm(inputs, outputs, activation="relu", kernel_init=init, norm_bias=NORM_BIAS, **types)


def _depthwise(channels: int, stride: int, types: dict[str, Any]) -> ConvNorm:
    return ConvNorm(
        channels,
        channels,
        window=3,
        stride=stride,
        depthwise=True,
        activation="linear",
        kernel_init=normal(1.0),
        norm_bias=NORM_BIAS,
        **types,
    )


def shufflenet_v2_cost(a: ShuffleNetV2Architecture, form: Form, height: int, width: int) -> tuple[Cost, Cost]:
    """Return the costs, as the paper counts, of the body, which computes the feature maps, and of the head."""
    body = conv_norm_cost(a.in_channels, a.stem_channels, area_at(2, height, width), kernel_area=9)
    before = area_at(4, height, width)
    for unit, stride in zip(a.units(), a.unit_strides, strict=True):
        area = area_at(stride, height, width)
        body += conv_norm_cost(unit.read, unit.middle, before) + depthwise_cost(unit.middle, area)
        body += conv_norm_cost(unit.middle, unit.outputs - unit.kept, area)
        if unit.stride == 2:
            body += depthwise_cost(unit.inputs, area) + conv_norm_cost(unit.inputs, unit.kept, area)
        before = area
    bias = a.variant == "torchvision"
    return body, plain_head_cost(a.stage_channels[-1], a.head_channels, a.num_classes, before, bias=bias)


def shufflenet_variant(keys: Iterable[str]) -> Variant:
    """Return the variant of a state_dict, judging by its keys."""
    of_torchvision = ("conv1.", "stage2.", "stage3.", "stage4.", "conv5.", "fc.")
    return "torchvision" if any(key.startswith(of_torchvision) for key in keys) else "megvii"


def shufflenet_v2_slots(model: ShuffleNetV2) -> NamedSlots:
    """Return the slots of every tensor in the state_dict of the network's variant."""
    return _torchvision_slots(model) if model.architecture.variant == "torchvision" else _megvii_slots(model)


def _megvii_slots(model: ShuffleNetV2) -> NamedSlots:
    yield from prefixed("first_conv", in_sequence([model.stem]))
    for number, unit in enumerate(model.units):
        yield from prefixed(f"features.{number}", _unit_slots(unit, main="branch_main", projection="branch_proj"))
    yield from prefixed("conv_last", in_sequence([model.last]))
    yield from prefixed("classifier.0", linear(model.classifier))


def _torchvision_slots(model: ShuffleNetV2) -> NamedSlots:
    yield from prefixed("conv1", in_sequence([model.stem]))
    units = iter(model.units)
    for stage, count in enumerate(model.architecture.stage_units, start=2):
        for number in range(count):
            yield from prefixed(
                f"stage{stage}.{number}", _unit_slots(next(units), main="branch2", projection="branch1")
            )
    yield from prefixed("conv5", in_sequence([model.last]))
    yield from prefixed("fc", linear(model.classifier))


def _unit_slots(unit: ShuffleUnit, *, main: str, projection: str) -> NamedSlots:
    branches = {main: unit.main, projection: unit.projection}
    for name in sorted(branches):  # the order in both implementations
        if (branch := branches[name]) is not None:
            yield from prefixed(name, in_sequence(branch))


def _unit_nodes(graph: Graph, unit: ShuffleUnit, x: Map) -> Map:
    """Add a unit; Gather selects the halves of the channels and interleaves them."""
    if unit.projection is None:
        channels = np.arange(x.channels)
        kept, read = (channels[0::2], channels[1::2]) if unit.variant == "megvii" else np.split(channels, 2)
        first, x = graph.gather(x, kept), graph.gather(x, read)
    else:
        first = in_turn(graph, unit.projection, x)
    joined = graph.concatenate(first, in_turn(graph, unit.main, x))
    if unit.variant == "megvii":
        return joined
    return graph.gather(joined, np.arange(joined.channels).reshape(2, -1).T.reshape(-1))


def _max_pool_node(graph: Graph, x: Map) -> Map:
    return graph.apply("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


FAMILY = Family(
    "shufflenet_v2",
    ShuffleNetV2Architecture,
    ShuffleNetV2,
    cost=shufflenet_v2_cost,
    torch=TorchFormat(
        shufflenet_v2_slots,
        classifier=("fc.weight", "classifier.0.weight"),
        stem=("conv1.0.weight", "first_conv.0.weight"),
        adapt=lambda architecture, keys: architecture.override({"variant": shufflenet_variant(keys)}),
    ),
    onnx=OnnxWriter(
        lambda graph, network, images: plain_maps(graph, network, images, _unit_nodes, _max_pool_node), plain_head
    ),
)
