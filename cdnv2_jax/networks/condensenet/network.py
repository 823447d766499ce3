"""CondenseNet and CondenseNetV2, masked and condensed: one class, configured by a `CondenseNetArchitecture`."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedReactivation
from cdnv2_jax.layers.convolutions import NormActConv, SqueezeExcite, half_size, kaiming_normal_fan_out, torch_linear
from cdnv2_jax.layers.learned import LearnedGroupConv, SparseFeatureReactivation
from cdnv2_jax.layers.norm import BatchNorm
from cdnv2_jax.layers.valid_region import at_stride, inside, region_of
from cdnv2_jax.networks.condensenet import kernels
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.network import ModulePath, Network


class DenseLayer(nnx.Module):
    """LGC 1×1 → grouped 3×3 → SE → SFR; [b, h, w, n] → [b, h, w, n + k]. Paper, figure 3 (right).

    With a `mask` [b, h, w, 1], values where it is False do not affect the output where it is True. With `halved`, the
    result is the 2×2 average pool of that, [b, h // 2, w // 2, n + k], for less work: averages commute with SFR's 1×1
    convolution. `lgc` and `sfr` are masked convolutions or, in a condensed network, their condensed counterparts.
    """

    lgc: LearnedGroupConv | CondensedGroupConv
    sfr: SparseFeatureReactivation | CondensedReactivation | None

    def __init__(
        self,
        architecture: CondenseNetArchitecture,
        block: int,
        in_channels: int,
        *,
        joined: int,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        a, growth = architecture, architecture.growth[block]
        wide = a.bottleneck * growth
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        common = {"activation": a.activation(block), **types}
        self.lgc = LearnedGroupConv(in_channels, wide, groups=a.lgc_groups, condensation_factor=a.lgc_factor, **common)
        self.lgc.norm.joined = joined
        self.conv = NormActConv(wide, growth, groups=a.conv_groups, **common)
        self.se = SqueezeExcite(growth, reduction=1, **types) if a.has_squeeze_excite(block) else None
        self.sfr = self._reactivation(a, growth, in_channels, common)

    @staticmethod
    def _reactivation(
        a: CondenseNetArchitecture, new: int, old: int, common: dict[str, Any]
    ) -> SparseFeatureReactivation | None:
        if a.sfr_groups is None or a.sfr_factor is None:
            return None
        return SparseFeatureReactivation(new, old, groups=a.sfr_groups, condensation_factor=a.sfr_factor, **common)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None, halved: bool = False) -> jax.Array:
        h = self.conv(self.lgc(x), mask)
        if self.se is not None:
            h = self.se(h, mask)
        x, new = (half_size(x), half_size(h)) if halved else (x, h)
        if self.sfr is not None:
            x = x + self.sfr(h, halved)
        return jnp.concatenate([x, new], axis=-1)


class CondenseNet(Network):
    """CondenseNet (v1) or CondenseNetV2, masked; `condense` returns its condensed form."""

    # A narrower type than in the base class is safe, because it is never reassigned.
    architecture: CondenseNetArchitecture  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        architecture: CondenseNetArchitecture,
        *,
        name: str,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(architecture, name=name, dtype=dtype)
        a = architecture
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.stem = nnx.Conv(
            a.in_channels,
            a.stem_channels,
            (3, 3),
            strides=a.stem_stride,
            padding=1,
            use_bias=False,
            kernel_init=kaiming_normal_fan_out(a.stem_channels, receptive_field=9),
            **types,
        )
        blocks: list[list[DenseLayer]] = [[] for _ in a.stages]
        joined = 0  # by the layer before
        for block, _, channels, growth in a.dense_layers():
            blocks[block].append(DenseLayer(a, block, channels, joined=joined, **types))
            joined = growth
        self.blocks = nnx.List([nnx.List(layers) for layers in blocks])
        self.norm_last = BatchNorm(a.out_channels, param_dtype=param_dtype)
        self.norm_last.joined = joined
        self._build_head(types)

    def _build_head(self, types: dict[str, Any]) -> None:
        a = self.architecture

        def linear(inputs: int, outputs: int, bias_init: nnx.Initializer) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, kernel_init=torch_linear(inputs), bias_init=bias_init, **types)

        if a.head_width is None:
            # CondenseNet (v1) initialises the bias of its only Linear with zeros; v2 keeps PyTorch's default.
            features, bias_init = a.out_channels, nnx.initializers.zeros_init()
            self.se_last = self.fc = None
        else:
            features, bias_init = a.head_width, torch_linear(a.head_width)
            self.se_last = SqueezeExcite(a.out_channels, a.head_reduction, **types)
            self.fc = linear(a.out_channels, a.head_width, torch_linear(a.out_channels))
        self.classifier = linear(features, a.num_classes, bias_init)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Compute logits [batch, classes] of normalised images [batch, height, width, channels], large enough."""
        self.check_images(images)
        if self._by_kernel(images):
            x = kernels.pooled_features(self.stem, self.blocks, self.norm_last, images)
        else:
            x = jax.nn.relu(self.norm_last(self._last_output(images))).mean((1, 2))
        if self.se_last is not None:
            x = self.se_last(x[:, None, None])[:, 0, 0]
        if self.fc is not None:
            x = jax.nn.hard_swish(self.fc(x))
        return self.classifier(x)

    def features(self, images: jax.Array, sizes: jax.Array | None = None) -> dict[int, jax.Array]:
        """Compute the blocks' outputs, the last one after its BatchNorm and ReLU; see `Network.features`.

        The squeeze-and-excitation of the head is not applied.
        """
        maps = dict(zip(self.architecture.block_strides, self.block_outputs(images, sizes), strict=True))
        last = self.architecture.block_strides[-1]
        maps[last] = jax.nn.relu(self.norm_last(maps[last]))
        region = region_of(images, sizes, last)
        return {stride: inside(x, at_stride(region, stride)) for stride, x in maps.items() if stride >= 4}

    def block_outputs(self, images: jax.Array, sizes: jax.Array | None = None) -> list[jax.Array]:
        """Compute each dense block's output before the average pool to the next block; `sizes` as for `features`.

        With `sizes`, the values beyond an image's own padding are arbitrary.
        """
        self.check_images(images)
        if sizes is None and self._by_kernel(images):
            outputs = kernels.block_outputs(self.stem, self.blocks, images)
            return [x.transpose(0, 2, 3, 1) for x in outputs]
        if sizes is None and self._by_training_kernel(images):
            return list(kernels.training_block_outputs(self.stem, self.blocks, images))
        return list(self._outputs_of_layers(images, sizes))

    def _outputs_of_layers(self, images: jax.Array, sizes: jax.Array | None) -> Iterator[jax.Array]:
        strides = self.architecture.block_strides
        region = region_of(images, sizes, strides[-1])
        x = self.stem(inside(images, region))
        for stride, block in zip(strides, self.blocks, strict=True):
            if stride > strides[0]:
                x = half_size(x)
            for layer in block:
                x = self._run(layer, x, at_stride(region, stride))
            yield x

    def _last_output(self, images: jax.Array) -> jax.Array:
        """Compute the last dense block's output, without the other blocks' at their full size."""
        if self._by_training_kernel(images):
            return self.block_outputs(images)[-1]
        x = self.stem(images)
        for number, block in enumerate(self.blocks, start=1):
            *layers, last = block
            for layer in layers:
                x = self._run(layer, x)
            x = self._run(last, x, halved=number < len(self.blocks))
        return x

    def _run(
        self, layer: DenseLayer, x: jax.Array, mask: jax.Array | None = None, *, halved: bool = False
    ) -> jax.Array:
        def of(layer: DenseLayer, x: jax.Array, mask: jax.Array | None) -> jax.Array:
            return layer(x, mask, halved)

        return (nnx.remat(of) if self.remat else of)(layer, x, mask)

    def _by_kernel(self, images: jax.Array) -> bool:
        """Return whether the CPU kernels replace the layers for these images in evaluation mode."""
        modules, condensed = self._kernel_modules(), self.form.condensed
        return kernels.used_in_evaluation(self.architecture, modules, images, condensed=condensed)

    def _by_training_kernel(self, images: jax.Array) -> bool:
        masked = not self.form.condensed
        return masked and kernels.used_in_training(self.architecture, self._kernel_modules(), images)

    def _kernel_modules(self) -> list[nnx.Module]:
        return [self.stem, *(layer for block in self.blocks for layer in block), self.norm_last]

    def dense_layers(self) -> Iterator[DenseLayer]:
        """Yield all dense layers, from the stem to the head."""
        for block in self.blocks:
            yield from block

    def stage_modules(self) -> list[list[ModulePath]]:
        """Return one stage for each dense block; the stem belongs to the first, the last BatchNorm to the last."""
        stages: list[list[ModulePath]] = [[("blocks", number)] for number in range(len(self.blocks))]
        stages[0].insert(0, ("stem",))
        stages[-1].append(("norm_last",))
        return stages

    @property
    def dense_blocks(self) -> tuple[int, ...]:
        """Number of dense layers of each block."""
        return self.architecture.stages

    @property
    def classifier_can_be_halved(self) -> bool:
        """True for a CondenseNet (v1)."""
        return self.architecture.head_width is None
