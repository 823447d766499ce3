"""Pruning a network: every learned convolution to the stage that is due."""

from collections.abc import Iterable
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from cdnv2_jax.condensation.masks import group_lasso, importance, remove_connections, stage_of
from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.masked_conv import ConnectionMask, MaskedConv
from cdnv2_jax.models.condensenet import CondenseNet
from cdnv2_jax.models.network import Network, NetworkArchitecture


class Prunable(Protocol):
    """What holds learned convolutions: a network, or a detector on top of one."""

    @property
    def architecture(self) -> NetworkArchitecture: ...

    def masked_convs(self) -> Iterable[MaskedConv]: ...


def prune(model: Network, stage: int) -> None:
    """Prunes `model` in place to condensation stage `stage`, from whatever stage it is at.

    A layer with condensation factor C has C − 1 stages and stays at its last one; connections never come back, so a
    stage already passed changes nothing. Each stage removes n / C connections per group, the least important ones:
    in every learned layer's boolean mask [G, n] as many entries become False. Weights stay as they are.

    Args:
      model: masked.
      stage: 0, nothing pruned, to `model.condensation_stages`, 1 / C of the connections left.

    Raises:
      UserError: the network has no masks, or no such stage.
    """
    if not isinstance(model, CondenseNet):
        raise UserError(f"{model.name} has nothing to prune: all of its connections are fixed")
    if model.form.condensed:
        raise UserError("a condensed network has nothing left to prune")
    last = model.architecture.condensation_stages
    if not 0 <= stage <= last:
        raise UserError(f"{model.name} has stages 0 to {last}, not {stage}")
    graph, masks, rest = nnx.split(model, ConnectionMask, ...)
    stages = {conv.condensation_factor: jnp.int32(stage) for conv in model.masked_convs()}
    nnx.update(model, _pruned_masks(graph, masks, rest, stages))


def prune_layers(model: Prunable, stages: dict[int, int] | dict[int, jax.Array]) -> None:
    """Prunes every layer to the stage given for its condensation factor, {C: stage}; stages may be traced."""
    for conv in model.masked_convs():
        factor = conv.condensation_factor
        stage = jnp.minimum(stages[factor], factor - 1)
        removed = stage * conv.kept
        conv.mask[...] = remove_connections(importance(conv.connection_weights()), conv.mask[...], removed)


@partial(jax.jit, static_argnums=0)
def _pruned_masks(graph: nnx.GraphDef, masks: nnx.State, rest: nnx.State, stages: dict[int, jax.Array]) -> nnx.State:
    model = nnx.merge(graph, masks, rest)
    prune_layers(model, stages)
    return nnx.state(model, ConnectionMask)


def layer_stage(conv: MaskedConv) -> jax.Array:
    """The stage a layer has passed, read off its mask (int32 scalar)."""
    return stage_of(conv.mask[...], conv.condensation_factor)


def stages_passed(model: Prunable) -> int:
    """The last stage that the whole network has passed, layers with fewer stages counting as done at their last."""
    stages = [(int(layer_stage(conv)), conv.condensation_factor - 1) for conv in model.masked_convs()]
    unfinished = [stage for stage, last in stages if stage < last]
    return min(unfinished, default=model.architecture.condensation_stages)


def total_group_lasso(model: Prunable) -> jax.Array:
    """The group lasso of all layers that have stages before them; a scalar, zero once all is pruned."""
    total = jnp.zeros(())
    for conv in model.masked_convs():
        unfinished = layer_stage(conv) < conv.condensation_factor - 1
        total += jnp.where(unfinished, group_lasso(conv.connection_weights(), conv.mask[...]), 0)
    return total


def sparsity(model: Prunable) -> jax.Array:
    """Share of learned 1×1 weights that are removed, in [0, 1]; 0 for a network without masks."""
    removed, weights = jnp.zeros(()), 0
    for conv in model.masked_convs():
        removed += (1 - conv.mask[...].mean()) * conv.kernel.size
        weights += conv.kernel.size
    return removed / max(weights, 1)
