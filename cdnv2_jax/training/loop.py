"""Ending a run early and in order, when the machine is about to be taken away (SIGTERM)."""

import dataclasses
import math
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from cdnv2_jax.data.pipeline import BrokenImages, HostBatch, host_batches
from cdnv2_jax.devices import fetch
from cdnv2_jax.errors import UserError, shorten
from cdnv2_jax.training.checkpoints import BestNetwork, RunCheckpoints
from cdnv2_jax.training.experiment import Task
from cdnv2_jax.training.pruning import Pruning
from cdnv2_jax.training.records import Meter, RunLog
from cdnv2_jax.training.state import TrainState, ema_model, live_model
from cdnv2_jax.training.step import Metrics
from cdnv2_jax.training.stopping import Stopped, StopSignal

PROFILE = "profile"


@dataclasses.dataclass
class Profile:
    """Traces the steps `first` … `last` − 1 into `workdir`/profile, for TensorBoard or Perfetto; nothing by default."""

    workdir: Path
    first: int = 0
    last: int = 0
    _on: bool = False

    def before_step(self, step: int) -> None:
        """Starts or ends the trace when `step` is the one for it."""
        if self._on and step >= self.last:
            self.end()
        if not self._on and self.first <= step < self.last:
            jax.profiler.start_trace(str(self.workdir / PROFILE))
            self._on = True

    def end(self) -> None:
        """Ends the trace if there is one."""
        if self._on:
            jax.profiler.stop_trace()
            self._on = False


CHECKPOINTS = "checkpoints"
BEST = "best"
STEPS_AHEAD = 2  # steps given to the devices before the host waits for one: enough to keep them busy


class Training:
    """A run of a task in a work directory, from its newest checkpoint if it has one.

    Attributes:
      task, workdir: of the run.
      pending: losses of steps not looked at yet; looking waits for the device.
    """

    def __init__(self, task: Task, workdir: Path, console: Console, profile: Profile | None = None):
        self.task, self.workdir, self.console = task, workdir, console
        self.profile = profile or Profile(workdir)
        self.held_out = task.held_out
        self.best = BestNetwork(workdir / BEST)
        self.broken = BrokenImages(task.row.source, task.config.data.max_broken_images)
        self.pending: list[tuple[int, jax.Array]] = []

    def run(self) -> TrainState:
        """The state after the last step.

        Raises:
          Stopped: asked to by SIGTERM; a checkpoint of that very step is saved.
          UserError: the loss is no number, images cannot be read, the disk is full.
        """
        task, config = self.task, self.task.config
        with RunCheckpoints(self.workdir / CHECKPOINTS, config.keep_checkpoints) as checkpoints, StopSignal() as stop:
            state = self._starting_state(checkpoints)
            checkpoints.check_room(state)
            first = int(fetch(state.step))
            pruning = Pruning(task, state)
            rows = host_batches(task.row, first, task.total_steps, config.data.workers)
            with RunLog(self.workdir, task.total_steps, first, self.console) as log, rows as batches:
                train_step = task.train_step()
                meter = Meter(config.data.batch_size, first)
                for step in range(first, task.total_steps):
                    if stop.due(step):
                        self._stop(checkpoints, step, state)
                    self.profile.before_step(step)
                    state = pruning.before_step(state, step, log)
                    batch = self._next(batches, meter, log, step)
                    state, metrics = train_step(state, task.devices.put_batch(self._device_part(batch)))
                    self._after_step(step + 1, state, metrics, pruning, meter, log, checkpoints)
                self.profile.end()
                # A run so short that stages are due after its last step passes them now: none is ever skipped.
                state = pruning.before_step(state, task.total_steps, log)
                self._evaluate(state, task.total_steps, log)
        return state

    def final_model(self, state: TrainState) -> Any:
        """The network to evaluate and keep: averaged weights if the run averages, else the live ones."""
        return (ema_model if self.task.config.ema_decay else live_model)(self.task.graph, state)

    def live_model(self, state: TrainState) -> Any:
        """The network with the weights being trained."""
        return live_model(self.task.graph, state)

    def _starting_state(self, checkpoints: RunCheckpoints) -> TrainState:
        state = self.task.initial_state()
        if checkpoints.latest_step is None:
            return state
        state, description = checkpoints.restore(state, self.task.devices)
        self.broken.found = {int(index): name for index, name in description["broken_images"].items()}
        self.console.print(f"resuming after step {int(fetch(state.step)):,}")
        before, now = description["devices"], self.task.devices.count
        if self.task.per_replica and before != now:
            self.console.print(
                f"{before} devices before, {now} now: each normalises another part of the batch from here"
            )
        return state

    def _next(self, batches: Iterator[HostBatch], meter: Meter, log: RunLog, step: int) -> HostBatch:
        with meter.waiting():
            batch = next(batches)
        for name in self.broken.check(batch):
            log.broken_image(step=step + 1, name=name)
        return batch

    def _after_step(
        self,
        done: int,
        state: TrainState,
        metrics: Metrics,
        pruning: Pruning,
        meter: Meter,
        log: RunLog,
        checkpoints: RunCheckpoints,
    ) -> None:
        """What is due after `done` updates: waiting, logging, evaluation, a checkpoint."""
        task, config = self.task, self.task.config
        self.pending.append((done, metrics["loss"]))
        if len(self.pending) > STEPS_AHEAD:
            self.pending[-1 - STEPS_AHEAD][1].block_until_ready()
        last = done == task.total_steps
        if done % config.log_every_steps == 0 or last:
            self._log(done, metrics, pruning, meter, log)
        if done % (config.eval_every_epochs * task.steps_per_epoch) == 0 and not last:
            with meter.paused():
                self._evaluate(state, done, log)
        if done % (config.checkpoint_every_epochs * task.steps_per_epoch) == 0 or last:
            with meter.paused():
                self._save(checkpoints, done, state)

    def _save(self, checkpoints: RunCheckpoints, step: int, state: TrainState) -> None:
        self._check_losses()
        # The losses were measured before the updates, the last of which may have spoilt the weights.
        if not fetch(all_finite((state.params, state.stats, state.ema_params))):
            raise UserError(
                f"weights are not finite after step {step}, batch of {self._images_of(step)}: the run stops, its last "
                f"checkpoint is kept; try a smaller config.optimizer.learning_rate"
            )
        description = {
            "step": step,
            "config": dataclasses.asdict(self.task.config),
            "broken_images": {str(index): name for index, name in self.broken.found.items()},
            "devices": self.task.devices.count,
            "versions": {package: version(package) for package in ("jax", "flax", "optax", "orbax-checkpoint")},
        }
        checkpoints.save(step, state, description)

    def _stop(self, checkpoints: RunCheckpoints, step: int, state: TrainState) -> None:
        self._save(checkpoints, step, state)
        checkpoints.wait()
        raise Stopped(f"asked to stop: saved after step {step:,}, the same command goes on from there")

    def _check_losses(self) -> None:
        """UserError naming the first step whose loss is no number, and its images."""
        for step, loss in self.pending:
            value = float(fetch(loss))
            if not math.isfinite(value):
                raise UserError(
                    f"the loss is {value} at step {step}, batch of {self._images_of(step)}: the run stops, its last "
                    f"checkpoint is kept; try a smaller config.optimizer.learning_rate"
                )
        self.pending.clear()

    def _images_of(self, step: int) -> str:
        row = self.task.row
        samples = [row.source[row.sample_index(r)] for r in range((step - 1) * row.share.rows, step * row.share.rows)]
        return shorten([sample.name for sample in samples], most=3)

    def _device_part(self, batch: HostBatch) -> HostBatch:
        return {name: batch[name] for name in self.task.device_fields if name in batch}

    def _log(self, step: int, metrics: Metrics, pruning: Pruning, meter: Meter, log: RunLog) -> None:
        values = {name: float(fetch(value)) for name, value in metrics.items()}
        self._check_losses()
        log.train(
            step=step,
            epoch=step / self.task.steps_per_epoch,
            **values,
            learning_rate=float(jnp.asarray(self.task.schedule(step - 1))),
            stage=pruning.stage,
            sparsity=pruning.sparsity,
            **meter.read(step),
        )

    def _evaluate(self, state: TrainState, step: int, log: RunLog) -> None:
        self._check_losses()
        model = self.final_model(state)
        result = self.held_out.evaluate(model)
        for name in self.held_out.broken.newly_found():
            log.broken_image(step=step, name=name)
        log.evaluation(
            result.headline,
            step=step,
            epoch=step / self.task.steps_per_epoch,
            **result.figures,
            weights="EMA" if self.task.config.ema_decay else "live",
        )
        self.best.offer(
            lambda path, metadata: self.task.save(path, model, metadata),
            step=step,
            name=result.score_name,
            score=result.score,
        )


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether no floating-point array of a tree holds NaN or infinity."""
    numbers = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.array([jnp.isfinite(x).all() for x in numbers]).all()
