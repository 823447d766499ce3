"""Which official state_dict key holds which of our variables, in the official order."""

import dataclasses

import numpy as np
from flax import nnx

from cdnv2_jax.condensation.masks import stage_of
from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedLinear, CondensedReactivation
from cdnv2_jax.layers.learned_group_conv import LearnedGroupConv
from cdnv2_jax.layers.masked_conv import MaskedConv
from cdnv2_jax.layers.squeeze_excite import SqueezeExcite
from cdnv2_jax.models.condensenet import CondenseNet, DenseLayer
from cdnv2_jax.models.families import AnyNetwork
from cdnv2_jax.models.mobilenet_v2 import MobileNetV2
from cdnv2_jax.models.shufflenet_v2 import ShuffleNetV2
from cdnv2_jax.torch_io import layouts, plain_key_map
from cdnv2_jax.torch_io.slots import NamedSlots, Slot, batch_norm, check_finite, linear, prefixed, spatial_kernel


@dataclasses.dataclass(frozen=True)
class Bookkeeping(Slot):
    """`_stage` or `_count`: the official code keeps them beside the mask, here they are read off the mask.

    Attributes:
      conv: the learned convolution. per_stage: how many units one stage adds (1 for `_stage`, n / C for `_count`).
    """

    conv: MaskedConv
    per_stage: int

    def read(self) -> np.ndarray:
        stage = int(stage_of(self.conv.mask[...], self.conv.condensation_factor))
        return np.full(1, stage * self.per_stage, np.float32)

    def write(self, tensor: np.ndarray) -> None:
        # Not taken over: runs of fewer than some 2,000 steps leave numbers here that the mask contradicts.
        check_finite(tensor)


def state_dict_slots(model: AnyNetwork) -> dict[str, Slot]:
    """Every key of the model's official state_dict, in the official order."""
    if isinstance(model, ShuffleNetV2):
        return dict(plain_key_map.shufflenet_v2(model))
    if isinstance(model, MobileNetV2):
        return dict(plain_key_map.mobilenet_v2(model))
    return dict(_condensenet(model))


def _condensenet(model: CondenseNet) -> NamedSlots:
    yield "features.init_conv.weight", spatial_kernel(model.stem.kernel)
    for number, block in enumerate(model.blocks, start=1):
        for position, layer in enumerate(block, start=1):
            yield from prefixed(f"features.denseblock_{number}.denselayer_{position}", _dense_layer(layer))
    yield from prefixed("features.norm_last", batch_norm(model.norm_last))
    if model.se_last is not None:
        yield from prefixed("features.se_last", _squeeze_excite(model.se_last))
    if model.fc is not None:
        yield from prefixed("fc", linear(model.fc))
    yield from prefixed("classifier", _classifier(model.classifier))


def _dense_layer(layer: DenseLayer) -> NamedSlots:
    yield from prefixed("conv_1", _learned(layer.lgc))
    yield from prefixed("conv_2.norm", batch_norm(layer.conv.norm))
    yield "conv_2.conv.weight", spatial_kernel(layer.conv.kernel)
    if layer.sfr is not None:
        yield from prefixed("sfr", _learned(layer.sfr))
    if layer.se is not None:
        yield from prefixed("se", _squeeze_excite(layer.se))


def _learned(conv: MaskedConv | CondensedGroupConv | CondensedReactivation) -> NamedSlots:
    shape = conv.kernel.shape
    if isinstance(conv, MaskedConv):
        mask_layout = layouts.lgc_mask if isinstance(conv, LearnedGroupConv) else layouts.sfr_mask
        scalar = layouts.unchanged((1,))
        inputs, outputs = shape
        yield "_count", Bookkeeping(conv.mask, scalar, conv, per_stage=conv.kept)
        yield "_stage", Bookkeeping(conv.mask, scalar, conv, per_stage=1)
        yield "_mask", Slot(conv.mask, mask_layout(conv.groups, inputs, outputs))
        kernel_layout = layouts.pointwise_kernel(shape)
    elif isinstance(conv, CondensedGroupConv):
        yield "index", Slot(conv.index, layouts.input_index(conv.index.shape, conv.in_channels))
        kernel_layout = layouts.condensed_lgc_kernel(shape)
    else:
        yield "index", Slot(conv.index, layouts.output_index(conv.index.shape, conv.out_channels))
        kernel_layout = layouts.condensed_sfr_kernel(shape)
    yield from prefixed("norm", batch_norm(conv.norm))
    yield "conv.weight", Slot(conv.kernel, kernel_layout)


def _squeeze_excite(se: SqueezeExcite) -> NamedSlots:
    yield from prefixed("fc.0", linear(se.squeeze))
    yield from prefixed("fc.2", linear(se.excite))


def _classifier(classifier: nnx.Linear | CondensedLinear) -> NamedSlots:
    if isinstance(classifier, CondensedLinear):
        yield "index", Slot(classifier.index, layouts.input_index(classifier.index.shape, classifier.in_features))
        yield from prefixed("linear", linear(classifier))
    else:
        yield from linear(classifier)
