"""The state_dicts of ShuffleNetV2, the authors' and torchvision's, and of MobileNetV2, torchvision's."""

import dataclasses
from collections.abc import Iterable

import numpy as np
from flax import nnx

from cdnv2_jax.layers import torch_layout as layouts
from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedLinear, CondensedReactivation
from cdnv2_jax.layers.convolutions import ConvNorm
from cdnv2_jax.layers.learned import LearnedGroupConv, MaskedConv
from cdnv2_jax.layers.squeeze_excite import SqueezeExcite
from cdnv2_jax.layers.torch_layout import NamedSlots, Slot, batch_norm, check_finite, linear, prefixed, spatial_kernel
from cdnv2_jax.networks.condensenet.dense_layer import DenseLayer
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.family import AnyNetwork
from cdnv2_jax.networks.mobilenet_v2 import InvertedResidual, MobileNetV2
from cdnv2_jax.networks.shufflenet_v2 import ShuffleNetV2, ShuffleNetV2Architecture, ShuffleUnit, Variant
from cdnv2_jax.pruning.prune import stage_of


def shufflenet_variant(keys: Iterable[str]) -> Variant:
    """Whose state_dict it is, told by the keys."""
    of_torchvision = ("conv1.", "stage2.", "stage3.", "stage4.", "conv5.", "fc.")
    return "torchvision" if any(key.startswith(of_torchvision) for key in keys) else "megvii"


def shufflenet_v2(model: ShuffleNetV2) -> NamedSlots:
    """Every tensor of the state_dict of the network's variant."""
    assert isinstance(model.architecture, ShuffleNetV2Architecture)
    return _torchvision(model) if model.architecture.variant == "torchvision" else _megvii(model)


def _megvii(model: ShuffleNetV2) -> NamedSlots:
    yield from prefixed("first_conv", _in_sequence([model.stem]))
    for number, unit in enumerate(model.units):
        yield from prefixed(f"features.{number}", _unit(unit, main="branch_main", projection="branch_proj"))
    yield from prefixed("conv_last", _in_sequence([model.last]))
    yield from prefixed("classifier.0", linear(model.classifier))


def _torchvision(model: ShuffleNetV2) -> NamedSlots:
    assert isinstance(model.architecture, ShuffleNetV2Architecture)
    yield from prefixed("conv1", _in_sequence([model.stem]))
    units = iter(model.units)
    for stage, count in enumerate(model.architecture.stage_units, start=2):
        for number in range(count):
            yield from prefixed(f"stage{stage}.{number}", _unit(next(units), main="branch2", projection="branch1"))
    yield from prefixed("conv5", _in_sequence([model.last]))
    yield from prefixed("fc", linear(model.classifier))


def _unit(unit: ShuffleUnit, *, main: str, projection: str) -> NamedSlots:
    branches = {main: unit.main, projection: unit.projection}
    for name in sorted(branches):  # which is the order of either code
        if (branch := branches[name]) is not None:
            yield from prefixed(name, _in_sequence(branch))


def mobilenet_v2(model: MobileNetV2) -> NamedSlots:
    """Every tensor of torchvision's state_dict."""
    yield from prefixed("features.0", _in_sequence([model.stem]))
    for number, unit in enumerate(model.units, start=1):
        yield from prefixed(f"features.{number}.conv", _inverted_residual(unit))
    yield from prefixed(f"features.{len(model.units) + 1}", _in_sequence([model.last]))
    yield from prefixed("classifier.1", linear(model.classifier))


def _inverted_residual(unit: InvertedResidual) -> NamedSlots:
    # Those with an activation are sequences of their own, that of the projection lies among them.
    activated = [conv for conv in (unit.expand, unit.depthwise) if conv is not None]
    for number, conv in enumerate(activated):
        yield from prefixed(str(number), _in_sequence([conv]))
    yield from _in_sequence([unit.project], start=len(activated))


def _in_sequence(convs: Iterable[ConvNorm], start: int = 0) -> NamedSlots:
    """Convolution and BatchNorm by their numbers in an `nn.Sequential`, which counts activations, too."""
    number = start
    for conv in convs:
        yield f"{number}.weight", spatial_kernel(conv.conv.kernel)
        yield from prefixed(str(number + 1), batch_norm(conv.norm))
        number += 3 if conv.activation != "linear" else 2


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
        return dict(shufflenet_v2(model))
    if isinstance(model, MobileNetV2):
        return dict(mobilenet_v2(model))
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
