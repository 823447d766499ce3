"""Pruning between the steps of a run: the masks follow the schedule, and what each stage removed is recorded."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.devices import fetch
from cdnv2_jax.layers.learned import ConnectionMask, masked_convs
from cdnv2_jax.pruning.prune import due_stages, layer_stage, prune_layers, sparsity, stages_passed
from cdnv2_jax.training.step import TrainState


class Pruner:
    """Keeps a run's masks at the stage that is due. Pruning changes values only: nothing is compiled twice.

    Attributes:
      reached: {condensation factor: stage} that all layers of that factor have passed.
      stage: the last stage that the whole network has passed.
      sparsity: share of the learned 1×1 weights that are removed, in [0, 1].
    """

    def __init__(self, graph: nnx.GraphDef, state: TrainState):
        self._graph = graph
        model = self._look(state)
        self.reached: dict[int, int] = {}
        for conv in masked_convs(model):
            factor, stage = conv.condensation_factor, int(layer_stage(conv))
            self.reached[factor] = min(stage, self.reached.get(factor, stage))

        def prune_step(params: nnx.State, stats: nnx.State, masks: nnx.State, stages: dict[int, jax.Array]):
            model = nnx.merge(graph, params, stats, masks)
            prune_layers(model, stages)
            return nnx.state(model, ConnectionMask)

        self._prune_step = jax.jit(prune_step, donate_argnums=2)

    def __call__(self, state: TrainState, progress: float) -> tuple[TrainState, bool]:
        """The state with everything pruned that is due at `progress` (in [0, 1]), and whether that was anything.

        Call it before every step and, with progress 1, after the last one: then no stage can be missed.
        """
        due = due_stages(progress, self.reached)
        if all(due[factor] <= stage for factor, stage in self.reached.items()):
            return state, False
        self.reached = due
        stages = {factor: jnp.int32(stage) for factor, stage in due.items()}
        masks = self._prune_step(state.params, state.stats, state.masks, stages)
        state = dataclasses.replace(state, masks=masks)
        self._before = self._masks
        self._look(state)
        return state, True

    def last_cut(self, state: TrainState) -> dict[str, list[float]]:
        """{"cut_connections", "cut_weight"}: of each learned convolution, the shares of its connections and of their
        absolute weights that the last call removed. In NumPy: nothing is compiled for a few figures."""
        model: Any = nnx.merge(self._graph, fetch(state.params), state.stats, state.masks)
        shares: dict[str, list[float]] = {"cut_connections": [], "cut_weight": []}
        for conv, old, new in zip(masked_convs(model), self._before, self._masks, strict=True):
            importance = np.abs(np.asarray(conv.connection_weights(), np.float64)).sum(-1)
            shares["cut_connections"].append(cut_share(np.ones_like(importance), old, new))
            shares["cut_weight"].append(cut_share(importance, old, new))
        return shares

    def _look(self, state: TrainState) -> Any:
        """Notes how far the state is pruned; returns the network."""
        # On this process's copy of the masks: the devices of others need not take part.
        model: Any = nnx.merge(self._graph, state.params, state.stats, fetch(state.masks))
        self.stage, self.sparsity = stages_passed(model), float(sparsity(model))
        # Copies, as the state's masks are donated when they are pruned.
        self._masks: Sequence[np.ndarray] = [np.array(conv.mask[...]) for conv in masked_convs(model)]
        return model


def cut_share(importance: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    """The share of Σ `importance` over the connections `before` that is missing `after`, in [0, 1]; 0 of nothing.

    Args:
      importance: [G, n], not negative.
      before, after: boolean [G, n], the connections at two times.
    """
    whole = importance[before].sum()
    return round(float(importance[before & ~after].sum() / whole), 6) if whole else 0.0
