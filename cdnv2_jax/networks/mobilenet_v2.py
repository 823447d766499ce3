"""MobileNetV2 (Sandler et al., CVPR 2018)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.convolutions import AfterNorm, ConvNorm
from cdnv2_jax.layers.initializers import kaiming_normal_fan_out, normal
from cdnv2_jax.networks.network import check_whole, make_tuples
from cdnv2_jax.networks.plain_network import PlainArchitecture, PlainNetwork


class Unit(NamedTuple):
    """Sizes of one inverted residual; `expanded` channels are in its middle."""

    inputs: int
    expanded: int
    outputs: int
    stride: int


@dataclasses.dataclass(frozen=True)
class MobileNetV2Architecture(PlainArchitecture):
    """What a MobileNetV2 is made of; the defaults are table 2 of the paper.

    Attributes:
      num_classes: logits.
      expansions, channels, repeats, strides: t, c, n and s of each stage: how many times its inputs a unit has in its
        middle, outputs, units, stride of the first unit (1 or 2).
      stem_channels: of the first convolution. head_channels: of the last one.
    """

    expansions: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    channels: tuple[int, ...] = (16, 24, 32, 64, 96, 160, 320)
    repeats: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    stem_channels: int = 32
    head_channels: int = 1280

    def __post_init__(self):
        stages = ("expansions", "channels", "repeats", "strides")
        make_tuples(self, stages)
        for field in dataclasses.fields(self):
            check_whole(field.name, getattr(self, field.name))
        if not self.channels or len({len(getattr(self, name)) for name in stages}) != 1:
            raise UserError(f"{', '.join(stages)} need one number per stage each")
        if not set(self.strides) <= {1, 2}:
            raise UserError(f"strides must be 1 or 2, got {self.strides}")

    def units(self) -> list[Unit]:
        """All units, from the stem to the head."""
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
    """1×1 expansion → depthwise 3×3 → 1×1 projection without activation; added to its input where shapes allow.

    Attributes:
      expand: None where the middle is no wider than the input.
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
    """NHWC images → logits. Initial values are those of torchvision.

    The dropout of the paper's training before the classifier is left out: nothing here hands out random keys.
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
        super().__init__(name=name, dtype=dtype)
        self.architecture = architecture
        a = architecture
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.stem = _conv(3, a.stem_channels, "relu6", types, window=3, stride=2)
        self.units = nnx.List([InvertedResidual(unit, types) for unit in a.units()])
        self.last = _conv(a.channels[-1], a.head_channels, "relu6", types)
        self.classifier = nnx.Linear(a.head_channels, a.num_classes, kernel_init=normal(0.01), **types)


def _conv(inputs: int, outputs: int, activation: AfterNorm, types: dict[str, Any], **window: Any) -> ConvNorm:
    init = kaiming_normal_fan_out(outputs, receptive_field=window.get("window", 1) ** 2)
    return ConvNorm(inputs, outputs, activation=activation, kernel_init=init, **window, **types)
