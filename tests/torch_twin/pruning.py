"""The condensation schedule and the pruning rule of masked layers (LGC and SFR alike)."""

import torch
from torch import nn

from tests.torch_twin.layers import MaskedPointwise


def prune_to_stage(model: nn.Module, stage: int) -> None:
    """Brings every masked layer to condensation stage `stage`, or to its last, C − 1, if that comes first.

    A jump over several stages removes everything that is due; a layer already there is left alone.
    """
    for layer in model.modules():
        if isinstance(layer, MaskedPointwise):
            _prune_layer(layer, min(stage, layer.condense_factor - 1))


def prune_to_progress(model: nn.Module, progress: float) -> None:
    """Brings every masked layer to the stage due at `progress` ∈ [0, 1) of the whole run.

    Stage s = 1 … C − 1 is due from 2·progress ≥ s/(C − 1) on, the last therefore at the middle of the run.
    """
    for layer in model.modules():
        if isinstance(layer, MaskedPointwise):
            last = layer.condense_factor - 1
            _prune_layer(layer, sum(2 * progress >= stage / last for stage in range(1, last + 1)))


@torch.no_grad()
def _prune_layer(layer: MaskedPointwise, stage: int) -> None:
    """Masks, in each group, the connections of least L1 norm until `stage` shares of R/C channels are gone.

    Weights that do not change between two stages would be ranked alike at both, so one sort does for a jump.
    """
    stage = max(stage, int(layer._stage))
    due = stage * (layer.removable // layer.condense_factor)
    if due > int(layer._count):
        importance = layer.connections(layer.conv.weight.abs() * layer._mask).sum(-1)
        # A survivor may weigh exactly 0: the removed ones must rank below it, or they would be removed once more.
        removed = layer.connections(layer._mask)[..., 0] == 0
        ranking = importance.masked_fill(removed, -1.0).argsort(dim=-1, stable=True)
        weakest = torch.zeros_like(removed).scatter(1, ranking[:, :due], True)
        layer.connections(layer._mask).masked_fill_(weakest[..., None], 0)
        layer._count.fill_(due)
    layer._stage.fill_(stage)
