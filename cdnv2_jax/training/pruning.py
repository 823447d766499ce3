"""Pruning between the steps of a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import nnx

from cdnv2_jax.devices import fetch
from cdnv2_jax.pruning.prune import sparsity, stages_passed
from cdnv2_jax.training.experiment import Task
from cdnv2_jax.training.records import RunLog
from cdnv2_jax.training.state import TrainState
from cdnv2_jax.training.step import Pruner


class Pruning:
    """The pruning of a run and how far it has come.

    Attributes:
      stage: the last stage that the whole network has passed. sparsity: share of learned weights removed.
    """

    def __init__(self, task: Task, state: TrainState):
        self._task = task
        self._pruner = Pruner(task.graph, state)
        self._look(state)

    def before_step(self, state: TrainState, step: int, log: RunLog) -> TrainState:
        """The state with all that is due before step `step` pruned; a stage passed is logged."""
        before = self._masks
        state, pruned = self._pruner(state, step / self._task.total_steps)
        if pruned:
            self._look(state)
            cut = self._cut_since(before, state)
            log.stage(step=step, stage=self.stage, stages=self._task.stages, sparsity=self.sparsity, **cut)
        return state

    def _look(self, state: TrainState) -> None:
        # On this process's copy of the masks: the devices of others need not take part.
        model: Any = nnx.merge(self._task.graph, state.params, state.stats, fetch(state.masks))
        self.stage, self.sparsity = stages_passed(model), float(sparsity(model))
        # Copies, as the state's masks are donated when they are pruned.
        self._masks = [np.array(conv.mask[...]) for conv in model.masked_convs()]

    def _cut_since(self, before: Sequence[np.ndarray], state: TrainState) -> dict[str, list[float]]:
        """{"cut_connections", "cut_weight"}: of each learned convolution, the shares of its connections and of their
        absolute weights that were removed; in NumPy, once per stage, so that nothing is compiled for it."""
        model: Any = nnx.merge(self._task.graph, fetch(state.params), state.stats, state.masks)
        shares: dict[str, list[float]] = {"cut_connections": [], "cut_weight": []}
        for conv, old, new in zip(model.masked_convs(), before, self._masks, strict=True):
            importance = np.abs(np.asarray(conv.connection_weights(), np.float64)).sum(-1)
            shares["cut_connections"].append(cut_share(np.ones_like(importance), old, new))
            shares["cut_weight"].append(cut_share(importance, old, new))
        return shares


def cut_share(importance: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    """The share of what there was, Σ of `importance` over `before`, that is not in `after`, in [0, 1]; 0 of nothing.

    Args:
      importance: [G, n], not negative.
      before, after: boolean [G, n], the connections at two times.
    """
    whole = importance[before].sum()
    return round(float(importance[before & ~after].sum() / whole), 6) if whole else 0.0
