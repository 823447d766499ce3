"""The architecture of a CondenseNet (v1) or CondenseNetV2, as plain numbers."""

from collections.abc import Mapping
from typing import Any, ClassVar

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.norm import ActivationName
from cdnv2_jax.networks.network import MOST_CHANNELS, MOST_STAGES, MOST_UNITS, Architecture
from cdnv2_jax.schema import setting, settings


@settings
class CondenseNetArchitecture(Architecture):
    """The architecture of a CondenseNet (v1) or CondenseNetV2."""

    PER_STAGE: ClassVar[tuple[str, ...]] = ("stages", "growth")
    UNITS_PER_STAGE: ClassVar[str] = "stages"
    SHORTHANDS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "groups": ("lgc_groups", "conv_groups", "sfr_groups"),
        "condensation_factor": ("lgc_factor", "sfr_factor"),
    }

    stages: tuple[int, ...] = setting("dense layers per block", least=1, most=MOST_UNITS, longest=MOST_STAGES)
    growth: tuple[int, ...] = setting(
        "growth rate k per block; the stem has 2 · growth[0] channels", least=1, most=4096, longest=MOST_STAGES
    )
    lgc_groups: int = setting("groups of the learned group convolutions", least=1, most=4096)
    lgc_factor: int = setting("condensation factor of the learned group convolutions", least=1, most=4096)
    conv_groups: int = setting("groups of the 3×3 convolutions", least=1, most=4096)
    sfr_groups: int | None = setting(
        "groups of sparse feature reactivation; None for v1", default=None, least=1, most=4096
    )
    sfr_factor: int | None = setting(
        "condensation factor of sparse feature reactivation; None for v1", default=None, least=1, most=4096
    )
    bottleneck: int = setting("b; the 1×1 convolution has b · k outputs", default=4, least=1, most=64)
    hard_swish_from: int | None = setting(
        "first block, from 0, with hard-swish; None if none", default=None, least=0, most=MOST_STAGES
    )
    squeeze_excite_from: int | None = setting(
        "first block, from 0, with SE; None if none", default=None, least=0, most=MOST_STAGES
    )
    head_width: int | None = setting(
        "width of the Linear before the classifier; None for v1, which has neither this Linear nor the last SE",
        default=None,
        least=1,
        most=MOST_CHANNELS,
    )
    head_reduction: int = setting("reduction of the SE in the head", default=16, least=1, most=MOST_CHANNELS)
    stem_stride: int = setting("stride of the first convolution; 1 for CIFAR", default=2, least=1, most=8)

    def check_together(self) -> None:
        if (self.sfr_groups is None) != (self.sfr_factor is None):
            raise UserError("sfr_groups and sfr_factor go together: give both, or neither for a network without SFR")
        self._check_channels()

    def _check_channels(self) -> None:
        """Raise UserError, naming the layer, if channels and groups are incompatible, before any array is allocated."""
        for block, layer, channels, growth in self.dense_layers():
            where = f"block {block + 1}, layer {layer + 1}"
            wide = self.bottleneck * growth
            rules = [
                (channels, "inputs of the 1×1 convolution", "lgc_groups", self.lgc_groups),
                (channels, "inputs of the 1×1 convolution", "lgc_factor", self.lgc_factor),
                (wide, "outputs of the 1×1 convolution", "lgc_groups", self.lgc_groups),
                (wide, "inputs of the 3×3 convolution", "conv_groups", self.conv_groups),
                (growth, "outputs of the 3×3 convolution", "conv_groups", self.conv_groups),
            ]
            if self.sfr_groups is not None and self.sfr_factor is not None:
                rules += [
                    (growth, "inputs of the reactivation", "sfr_groups", self.sfr_groups),
                    (channels, "outputs of the reactivation", "sfr_factor", self.sfr_factor),
                ]
            for count, what, name, divisor in rules:
                if count % divisor:
                    raise UserError(f"{where}: {count} {what} are not divisible by {name} {divisor}")
        if self.head_width is not None and self.out_channels < self.head_reduction:
            raise UserError(f"head_reduction {self.head_reduction} exceeds the {self.out_channels} channels")

    @property
    def stem_channels(self) -> int:
        """Channels after the first convolution: 2 · growth[0]."""
        return 2 * self.growth[0]

    @property
    def out_channels(self) -> int:
        """Channels of the last feature map."""
        return self.stem_channels + sum(n * k for n, k in zip(self.stages, self.growth, strict=True))

    @property
    def condensation_stages(self) -> int:
        """Number of pruning stages of the whole network: the largest C − 1."""
        return max(self.lgc_factor, self.sfr_factor or 1) - 1

    @property
    def feature_channels(self) -> dict[int, int]:
        """Stride → channels of the maps that `features` returns: the blocks' outputs from stride 4 upwards."""
        channels, found = self.stem_channels, {}
        for stride, layers, growth in zip(self.block_strides, self.stages, self.growth, strict=True):
            channels += layers * growth
            found[stride] = channels
        return {stride: count for stride, count in found.items() if stride >= 4}

    @property
    def block_strides(self) -> tuple[int, ...]:
        """Stride of each block's feature map relative to the image."""
        return tuple(self.stem_stride * 2**block for block in range(len(self.stages)))

    def dense_layers(self) -> list[tuple[int, int, int, int]]:
        """Return (block, layer in block, input channels, growth rate) of every dense layer, both numbers from 0."""
        found = []
        channels = self.stem_channels
        for block, (layers, growth) in enumerate(zip(self.stages, self.growth, strict=True)):
            for layer in range(layers):
                found.append((block, layer, channels, growth))
                channels += growth
        return found

    def activation(self, block: int) -> ActivationName:
        """Return the activation of block `block` (from 0)."""
        return "hard_swish" if self.hard_swish_from is not None and block >= self.hard_swish_from else "relu"

    def has_squeeze_excite(self, block: int) -> bool:
        """Return whether the layers of block `block` (from 0) contain squeeze-and-excitation."""
        return self.squeeze_excite_from is not None and block >= self.squeeze_excite_from

    def map_side(self, block: int, image_side: int) -> int:
        """Return the side of block `block`'s feature map for an image side (the stem rounds up, other strides down)."""
        side = (image_side - 1) // self.stem_stride + 1
        return side // 2**block

    def smallest_map(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the last feature map for an image of this size."""
        last = len(self.stages) - 1
        return self.map_side(last, height), self.map_side(last, width)

    def check_image(self, height: int, width: int) -> None:
        """Raise UserError if nothing would be left of an image after all strides."""
        if min(self.smallest_map(height, width)) < 1:
            raise UserError(
                f"a {height}×{width} image is too small: nothing is left of it after stride {self.block_strides[-1]}"
            )

    def fields_of(self, shorthand: str, overrides: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the fields that a shorthand sets, without those of SFR in a network that has none."""
        fields = super().fields_of(shorthand, overrides)
        if overrides.get("sfr_groups", self.sfr_groups) is not None:
            return fields
        return tuple(name for name in fields if not name.startswith("sfr"))
