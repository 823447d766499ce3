"""Pruning between the steps of a run."""

from typing import Any

from flax import nnx

from cdnv2_jax.condensation.prune import sparsity, stages_passed
from cdnv2_jax.devices import fetch
from cdnv2_jax.training.progress import RunLog
from cdnv2_jax.training.state import TrainState
from cdnv2_jax.training.step import Pruner
from cdnv2_jax.training.task import Task


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
        state, pruned = self._pruner(state, step / self._task.total_steps)
        if pruned:
            self._look(state)
            log.stage(step=step, stage=self.stage, stages=self._task.stages, sparsity=self.sparsity)
        return state

    def _look(self, state: TrainState) -> None:
        # On this process's copy of the masks: the devices of others need not take part.
        model: Any = nnx.merge(self._task.graph, state.params, state.stats, fetch(state.masks))
        self.stage, self.sparsity = stages_passed(model), float(sparsity(model))
