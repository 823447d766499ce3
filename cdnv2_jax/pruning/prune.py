"""The pruning schedule, the choice of connections to remove, and pruning of whole networks."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.condensed import condensed_layers
from cdnv2_jax.layers.learned import ConnectionMask, MaskedConv, masked_convs, stage_of
from cdnv2_jax.networks.network import Network


def due_stage(progress: float, condensation_factor: int) -> int:
    """Return the stage (0 … C − 1) that a layer must have reached at a point in training.

    The C − 1 stages are spread evenly over the first half of training: stage s is due once 2 · progress ≥ s / (C − 1).
    The second half trains with the final sparsity (CondenseNet, section 3.3).

    Args:
      progress: fraction of the training steps that are done, in [0, 1].
      condensation_factor: C.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must be in [0, 1], got {progress}")
    last = condensation_factor - 1
    # The comparison of the official code, so that both prune at the same step for every length of run.
    return sum(2 * progress >= stage / last for stage in range(1, last + 1))


def due_stages(progress: float, condensation_factors: Iterable[int]) -> dict[int, int]:
    """Return `due_stage` for every condensation factor of a network, as {factor: stage}."""
    return {factor: due_stage(progress, factor) for factor in sorted(set(condensation_factors))}


def pruning_steps(total_steps: int, condensation_factor: int) -> dict[int, int]:
    """Return the step before which each stage is first due in a run of `total_steps`, as {stage: step}.

    In a short run several stages may be due at the same step. A stage that is not due before the last step is due
    after it, at step `total_steps`, so no stage is skipped.
    """

    def due(step: int) -> int:
        return due_stage(step / total_steps if total_steps else 1.0, condensation_factor)

    # The steps before which a stage is not due come first.
    return {stage: bisect_left(range(total_steps + 1), stage, key=due) for stage in range(1, condensation_factor)}


LASSO_FLOOR = 1e-6


def importance(connection_weights: jax.Array) -> jax.Array:
    """Sum the absolute weights of every connection, [G, n, m] → [G, n] (CondenseNet, section 3.1)."""
    return jnp.abs(connection_weights).sum(-1)


def remove_connections(importances: jax.Array, mask: jax.Array, removed: jax.Array | int) -> jax.Array:
    """Return the mask with the `removed` least important connections of each group removed.

    Connections removed earlier stay removed and count as the least important. Of equal ones, the first channel is
    removed first. A group that has already lost more than `removed` is unchanged.

    Args:
      importances: [G, n], non-negative.
      mask: boolean [G, n], the connections that exist now.
      removed: total number of the n connections that each group loses, earlier ones included; may be traced.
    """
    order = jnp.argsort(jnp.where(mask, importances, -1), axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1)
    return mask & (rank >= removed)


def group_lasso(connection_weights: jax.Array, mask: jax.Array) -> jax.Array:
    """Sum √max(Σ weights², 1e-6) over connections, a scalar; removed ones add only the constant floor.

    The floor, as in the official CondenseNet code, keeps the square root's gradient finite at zero.
    """
    squares = jnp.square(connection_weights * mask[..., None]).sum(-1)
    return jnp.sqrt(jnp.maximum(squares, LASSO_FLOOR)).sum()


def prune(model: nnx.Module, stage: int) -> None:
    """Prune `model` in place to condensation stage `stage`, whatever its present stage.

    A layer with condensation factor C has C − 1 stages and stays at its last one. Connections never come back, so a
    stage already passed changes nothing. Each stage removes the n / C least important connections of each group, by
    setting their entries of the layer's boolean mask [G, n] to False. Weights are unchanged.

    Args:
      model: any module with learned convolutions (`LearnedGroupConv`, `SparseFeatureReactivation`), wherever they sit.
      stage: from 0 (nothing pruned) to the largest C − 1 of its layers (1 / C of the connections left).

    Raises:
      UserError: the module has no learned convolutions or no such stage.
    """
    convs, name = masked_convs(model), name_of(model)
    if not convs:
        why = "it is condensed already" if condensed_layers(model) else "all of its connections are fixed"
        raise UserError(f"{name} has nothing to prune: {why}")
    last = last_stage(model)
    if not 0 <= stage <= last:
        raise UserError(f"{name} has stages 0 to {last}, not {stage}")
    graph, masks, rest = nnx.split(model, ConnectionMask, ...)
    stages = {conv.condensation_factor: jnp.int32(stage) for conv in convs}
    nnx.update(model, _pruned_masks(graph, masks, rest, stages))


def prune_layers(model: nnx.Module, stages: Mapping[int, int | jax.Array]) -> None:
    """Prune every learned layer to the stage given for its condensation factor, {C: stage}; stages may be traced."""
    for conv in masked_convs(model):
        factor = conv.condensation_factor
        stage = jnp.minimum(stages[factor], factor - 1)
        removed = stage * conv.kept
        conv.mask[...] = remove_connections(importance(conv.connection_weights()), conv.mask[...], removed)


@partial(jax.jit, static_argnums=0)
def _pruned_masks(graph: nnx.GraphDef, masks: nnx.State, rest: nnx.State, stages: dict[int, jax.Array]) -> nnx.State:
    model = nnx.merge(graph, masks, rest)
    prune_layers(model, stages)
    return nnx.state(model, ConnectionMask)


def name_of(module: nnx.Module) -> str:
    """Return what messages call a module: a network's name, otherwise the class."""
    return module.name if isinstance(module, Network) else f"a {type(module).__name__}"


def last_stage(model: nnx.Module) -> int:
    """Return the number of pruning stages of a module: the largest C − 1 of its learned layers, 0 if it has none."""
    return max((conv.condensation_factor - 1 for conv in masked_convs(model)), default=0)


def layer_stage(conv: MaskedConv) -> jax.Array:
    """Return the stage that a layer has passed, int32 scalar, derived from its mask."""
    return stage_of(conv.mask[...], conv.condensation_factor)


def stages_passed(model: nnx.Module) -> int:
    """Return the last stage that all layers have passed; a layer at its own last stage counts as finished."""
    stages = [(int(layer_stage(conv)), conv.condensation_factor - 1) for conv in masked_convs(model)]
    unfinished = [stage for stage, last in stages if stage < last]
    return min(unfinished, default=last_stage(model))


def total_group_lasso(model: nnx.Module) -> jax.Array:
    """Return the group lasso of all layers with stages still ahead, a scalar; zero once fully pruned."""
    total = jnp.zeros(())
    for conv in masked_convs(model):
        unfinished = layer_stage(conv) < conv.condensation_factor - 1
        total += jnp.where(unfinished, group_lasso(conv.connection_weights(), conv.mask[...]), 0)
    return total


def sparsity(model: nnx.Module) -> jax.Array:
    """Return the fraction of learned 1×1 weights that are removed, in [0, 1]; 0 for a module without masks."""
    removed, weights = jnp.zeros(()), 0
    for conv in masked_convs(model):
        removed += (1 - conv.mask[...].mean()) * conv.kernel.size
        weights += conv.kernel.size
    return removed / max(weights, 1)
