"""What a network of the CondenseNet family is made of, as plain data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.norm import ActivationName
from cdnv2_jax.networks.network import check_whole, make_tuples, refuse_unknown


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A CondenseNet (v1) or CondenseNetV2; section numbers are those of the CondenseNetV2 paper.

    Attributes:
      stages: dense layers per block. growth: growth rate k per block; the stem gives 2 · growth[0] channels.
      num_classes: logits.
      lgc_groups, lgc_factor: groups G and condensation factor C of the learned group convolutions.
      conv_groups: groups of the 3×3 convolutions.
      sfr_groups, sfr_factor: likewise for sparse feature reactivation; None for v1, which has none.
      bottleneck: b; the 1×1 convolution gives b · k channels.
      hard_swish_from, squeeze_excite_from: first block (from 0) with hard-swish, with SE; None for none.
      head_width: width of the Linear before the classifier; None for v1, which has neither it nor the last SE.
      head_reduction: reduction of the SE in the head.
      stem_stride: 2 for ImageNet, 1 for CIFAR.
    """

    stages: tuple[int, ...]
    growth: tuple[int, ...]
    num_classes: int
    lgc_groups: int
    lgc_factor: int
    conv_groups: int
    sfr_groups: int | None = None
    sfr_factor: int | None = None
    bottleneck: int = 4
    hard_swish_from: int | None = None
    squeeze_excite_from: int | None = None
    head_width: int | None = None
    head_reduction: int = 16
    stem_stride: int = 2

    def __post_init__(self):
        make_tuples(self, ("stages", "growth"))
        if not self.stages or len(self.stages) != len(self.growth):
            raise UserError(
                f"stages and growth need one number per block: got {len(self.stages)} and {len(self.growth)} numbers"
            )
        if (self.sfr_groups is None) != (self.sfr_factor is None):
            raise UserError("sfr_groups and sfr_factor go together: give both, or neither for a network without SFR")
        self._check_numbers()
        self._check_channels()

    def _check_numbers(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                check_whole(field.name, value, 0 if field.name in ("hard_swish_from", "squeeze_excite_from") else 1)

    def _check_channels(self) -> None:
        """Refuses what could not be built, naming the layer, before any array is made."""
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
                    raise UserError(f"{where}: {count} {what} do not divide by {name} {divisor}")
        if self.head_width is not None and self.out_channels < self.head_reduction:
            raise UserError(f"head_reduction {self.head_reduction} leaves nothing of {self.out_channels} channels")

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
        """How many pruning stages the whole network passes: the largest C − 1."""
        return max(self.lgc_factor, self.sfr_factor or 1) - 1

    @property
    def feature_channels(self) -> dict[int, int]:
        """Stride → channels of the maps that `features` gives: the blocks' outputs from stride 4 on."""
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
        """(block, layer in block, input channels, growth rate) of every dense layer, all counted from 0."""
        found = []
        channels = self.stem_channels
        for block, (layers, growth) in enumerate(zip(self.stages, self.growth, strict=True)):
            for layer in range(layers):
                found.append((block, layer, channels, growth))
                channels += growth
        return found

    def activation(self, block: int) -> ActivationName:
        """Activation of block `block` (from 0)."""
        return "hard_swish" if self.hard_swish_from is not None and block >= self.hard_swish_from else "relu"

    def has_squeeze_excite(self, block: int) -> bool:
        """Whether the layers of block `block` (from 0) end in squeeze-and-excitation."""
        return self.squeeze_excite_from is not None and block >= self.squeeze_excite_from

    def map_side(self, block: int, image_side: int) -> int:
        """Side of block `block`'s feature map for an image of that side (strides round down, the stem's up)."""
        side = (image_side - 1) // self.stem_stride + 1
        return side // 2**block

    def smallest_map(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the last feature map for an image of that size."""
        last = len(self.stages) - 1
        return self.map_side(last, height), self.map_side(last, width)

    def check_image(self, height: int, width: int) -> None:
        """Raises UserError when nothing would be left of an image after all strides."""
        if min(self.smallest_map(height, width)) < 1:
            raise UserError(
                f"a {height}×{width} image is too small: nothing is left of it after stride {self.block_strides[-1]}"
            )

    def override(self, overrides: Mapping[str, Any]) -> "Architecture":
        """A copy with some fields replaced.

        Beside the fields' own names, `groups` sets the groups of all three convolutions and `condensation_factor`
        the factor of LGC and SFR. Raises UserError for an unknown name, with the nearest one.
        """
        fields = {field.name for field in dataclasses.fields(self)}
        changes: dict[str, Any] = {}
        has_sfr = overrides.get("sfr_groups", self.sfr_groups) is not None
        shorthands = {
            "groups": ["lgc_groups", "conv_groups", *(["sfr_groups"] if has_sfr else [])],
            "condensation_factor": ["lgc_factor", *(["sfr_factor"] if has_sfr else [])],
        }
        refuse_unknown(overrides, fields, shorthands)
        for name, value in overrides.items():
            for field in shorthands.get(name, []):
                changes.setdefault(field, value)
        changes.update({name: value for name, value in overrides.items() if name in fields})
        return dataclasses.replace(self, **changes)
