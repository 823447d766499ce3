"""Everything that changes during training, as one pytree."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cdnv2_jax.devices import fetch
from cdnv2_jax.layers.condensed import ConnectionIndex
from cdnv2_jax.layers.learned import ConnectionMask


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of a run between two steps.

    Attributes:
      step: int32, updates done.
      params, stats, masks: the network's variables by type (`Param`, `BatchStat` and which connections there are:
        `ConnectionMask` or, of a condensed network, `ConnectionIndex`).
      opt_state: of the optimizer.
      ema_params, ema_stats: their moving averages; the masks are shared, they are never averaged.
    """

    step: jax.Array
    params: nnx.State
    stats: nnx.State
    masks: nnx.State
    opt_state: Any
    ema_params: nnx.State
    ema_stats: nnx.State


def create_state(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    *,
    set_training_mode: Callable[[Any], None] = nnx.Module.train,
) -> tuple[nnx.GraphDef, TrainState]:
    """(graph, state) of a fresh run; the graph is in training mode, `nnx.merge` makes a network of the two.

    The state owns copies of the model's arrays: the train step donates them, the model stays usable.
    """
    set_training_mode(model)
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat, (ConnectionMask, ConnectionIndex))
    params, stats, masks = _copied(states)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        masks=masks,
        opt_state=optimizer.init(params),
        ema_params=_copied(params),
        ema_stats=_copied(stats),
    )
    return graph, state


def live_model(graph: nnx.GraphDef, state: TrainState) -> Any:
    """The network with the weights being trained, in evaluation mode; it owns copies of its arrays."""
    return _evaluation_model(graph, state.params, state.stats, state.masks)


def ema_model(graph: nnx.GraphDef, state: TrainState) -> Any:
    """The network with the averaged weights and statistics, in evaluation mode."""
    return _evaluation_model(graph, state.ema_params, state.ema_stats, state.masks)


def _evaluation_model(graph: nnx.GraphDef, *states: nnx.State) -> Any:
    model = nnx.merge(graph, *_copied(fetch(states)))
    model.eval()
    return model


@jax.jit
def _copied(tree: Any) -> Any:
    # One compiled program instead of a call for each of some hundred arrays.
    return jax.tree.map(jnp.copy, tree)
