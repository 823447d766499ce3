"""One dense layer, masked or condensed."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedReactivation
from cdnv2_jax.layers.convolutions import NormActConv
from cdnv2_jax.layers.learned import LearnedGroupConv, SparseFeatureReactivation
from cdnv2_jax.layers.squeeze_excite import SqueezeExcite
from cdnv2_jax.networks.condensenet.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class Form:
    """In which form a network is built.

    Attributes:
      condensed: learned convolutions store kept connections only (False: whole kernels with masks).
      halved_classifier: the classifier reads half of its inputs, as in the official converted CondenseNet (v1).
    """

    condensed: bool = False
    halved_classifier: bool = False


class DenseLayer(nnx.Module):
    """LGC 1×1 → grouped 3×3 → SE → SFR; [b, h, w, n] → [b, h, w, n + k]. Paper, figure 3 (right).

    With a `mask` [b, h, w, 1], what is on the map where it is False changes nothing where it is True.
    """

    def __init__(
        self,
        architecture: Architecture,
        block: int,
        in_channels: int,
        form: Form,
        *,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        a = architecture
        growth = a.growth[block]
        wide = a.bottleneck * growth
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        common = {"activation": a.activation(block), **types}
        self.lgc = self._lgc(a, in_channels, wide, form, common)
        self.conv = NormActConv(wide, growth, groups=a.conv_groups, **common)
        self.se = SqueezeExcite(growth, reduction=1, **types) if a.has_squeeze_excite(block) else None
        self.sfr = self._sfr(a, growth, in_channels, form, common)

    @staticmethod
    def _lgc(a: Architecture, inputs: int, outputs: int, form: Form, common: dict[str, Any]):
        if form.condensed:
            return CondensedGroupConv(inputs, outputs, groups=a.lgc_groups, kept=inputs // a.lgc_factor, **common)
        return LearnedGroupConv(inputs, outputs, groups=a.lgc_groups, condensation_factor=a.lgc_factor, **common)

    @staticmethod
    def _sfr(a: Architecture, inputs: int, outputs: int, form: Form, common: dict[str, Any]):
        if a.sfr_groups is None or a.sfr_factor is None:
            return None
        if form.condensed:
            kept = outputs // a.sfr_factor
            return CondensedReactivation(inputs, outputs, groups=a.sfr_groups, kept=kept, **common)
        factor = a.sfr_factor
        return SparseFeatureReactivation(inputs, outputs, groups=a.sfr_groups, condensation_factor=factor, **common)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        h = self.conv(self.lgc(x), mask)
        if self.se is not None:
            h = self.se(h, mask)
        if self.sfr is not None:
            x = x + self.sfr(h)
        return jnp.concatenate([x, h], axis=-1)
