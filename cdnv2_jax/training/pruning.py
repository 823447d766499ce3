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
    """Scheduled pruning of a run's masks. It changes values only, so nothing is compiled again.

    Attributes:
      reached: {condensation factor: last stage that all layers with this factor have passed}.
      stage: the last stage that the whole network has passed.
      sparsity: fraction of the learned 1×1 weights that are removed, in [0, 1].
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
        """Prune everything that is due at `progress` (in [0, 1]); return the state and whether anything was due.

        Call it before every step and, with progress 1, after the last one, so that no stage is missed.
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
        """Return the fractions of connections ("cut_connections") and of their absolute weights ("cut_weight") that the
        last call removed from each learned convolution. In NumPy, so that nothing is compiled for a few values."""
        model: Any = nnx.merge(self._graph, fetch(state.params), state.stats, state.masks)
        shares: dict[str, list[float]] = {"cut_connections": [], "cut_weight": []}
        for conv, old, new in zip(masked_convs(model), self._before, self._masks, strict=True):
            importance = np.abs(np.asarray(conv.connection_weights(), np.float64)).sum(-1)
            shares["cut_connections"].append(cut_share(np.ones_like(importance), old, new))
            shares["cut_weight"].append(cut_share(importance, old, new))
        return shares

    def _look(self, state: TrainState) -> Any:
        """Record how far the state is pruned, and return the network."""
        # On this process's copy of the masks, so that no other process needs to take part.
        model: Any = nnx.merge(self._graph, state.params, state.stats, fetch(state.masks))
        self.stage, self.sparsity = stages_passed(model), float(sparsity(model))
        # Copies, because pruning donates the state's masks.
        self._masks: Sequence[np.ndarray] = [np.array(conv.mask[...]) for conv in masked_convs(model)]
        return model


def cut_share(importance: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    """Return the fraction of Σ `importance` over connections `before` that is missing `after`, in [0, 1]; 0 if Σ is 0.

    Args:
      importance: [G, n], non-negative.
      before, after: boolean [G, n], the connections before and after.
    """
    whole = importance[before].sum()
    return round(float(importance[before & ~after].sum() / whole), 6) if whole else 0.0
