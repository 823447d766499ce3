"""Conversion of a fully pruned network: masks become index gathers and true grouped convolutions."""

import copy

import torch
from torch import Tensor, nn

from tests.torch_twin.layers import (
    CondensedLgc,
    CondensedLinear,
    CondensedSfr,
    LearnedGroupConvolution,
    MaskedPointwise,
    SparseFeatureReactivation,
)
from tests.torch_twin.network import CondenseNetTwin, DenseLayer

# The official conversion starts from fresh normalisation layers, so `num_batches_tracked` begins at 0 again.
_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


@torch.no_grad()
def converted(model: CondenseNetTwin, *, halve_classifier: bool | None = None) -> CondenseNetTwin:
    """A new network with the converted layers and state_dict; `model` stays as it is.

    Outputs are those of the masked network, unless `halve_classifier` (default: for v1 only) also drops the half of
    the classifier's inputs that weighs least.
    """
    result = copy.deepcopy(model)
    for layer in result.modules():
        if isinstance(layer, DenseLayer):
            if isinstance(layer.conv_1, LearnedGroupConvolution):
                layer.conv_1 = _condensed_lgc(layer.conv_1)
            if isinstance(layer.sfr, SparseFeatureReactivation):
                layer.sfr = _condensed_sfr(layer.sfr)
    if halve_classifier is None:
        halve_classifier = model.fc is None
    if halve_classifier and isinstance(result.classifier, nn.Linear):
        result.classifier = _halved(result.classifier)
    return result.train(model.training)


def _kept(layer: MaskedPointwise) -> Tensor:
    """Which channels each group has kept, bool [G, R], with R/C of them true in every row."""
    kept = layer.connections(layer._mask)[..., 0] != 0
    expected = layer.removable // layer.condense_factor
    if not bool((kept.sum(1) == expected).all()):
        raise ValueError(f"a layer that is to keep {expected} channels per group is not pruned to its last stage")
    return kept


def _condensed_lgc(layer: LearnedGroupConvolution) -> CondensedLgc:
    """Gathers the kept inputs group by group, ascending: weight [out, in, 1, 1] → [out, in/C, 1, 1]."""
    kept = _kept(layer)
    index = kept.nonzero()[:, 1]
    conv, groups = layer.conv, layer.groups
    result = CondensedLgc(len(index), conv.out_channels, groups=groups, activation=layer.activation)
    result.to(conv.weight)
    result.index.copy_(index)
    for name in _NORM_TENSORS:
        getattr(result.norm, name).copy_(getattr(layer.norm, name)[index])
    by_input = layer.connections(conv.weight)[kept].view(groups, -1, conv.out_channels // groups)
    result.conv.weight.copy_(by_input.transpose(1, 2).reshape_as(result.conv.weight))
    return result


def _condensed_sfr(layer: SparseFeatureReactivation) -> CondensedSfr:
    """Lists the kept outputs group by group, ascending: weight [out, in, 1, 1] → [G·out/C, in/G, 1, 1]."""
    kept = _kept(layer)
    landing = kept.nonzero()[:, 1]
    conv = layer.conv
    result = CondensedSfr(
        conv.in_channels, len(landing), conv.out_channels, groups=layer.groups, activation=layer.activation
    )
    result.to(conv.weight)
    result.index[torch.arange(len(landing)), landing] = 1
    for name in _NORM_TENSORS:
        getattr(result.norm, name).copy_(getattr(layer.norm, name))
    result.conv.weight.copy_(layer.connections(conv.weight)[kept].view_as(result.conv.weight))
    return result


def _halved(linear: nn.Linear) -> CondensedLinear:
    """Keeps the half of the inputs of largest L1 norm, the largest last: weight [out, in] → [out, in/2]."""
    kept = linear.in_features // 2
    index = linear.weight.abs().sum(0).argsort(stable=True)[linear.in_features - kept :]
    result = CondensedLinear(kept, linear.out_features).to(linear.weight)
    result.index.copy_(index)
    result.linear.weight.copy_(linear.weight[:, index])
    result.linear.bias.copy_(linear.bias)
    return result
