"""The training loop: prune what is due, take a step, then log, evaluate and save as often as the config says."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from cdnv2_jax import stopping
from cdnv2_jax.data.batches import BrokenImages, HostBatch
from cdnv2_jax.data.prefetch import host_batches
from cdnv2_jax.devices import fetch, is_first_process
from cdnv2_jax.errors import UserError, shorten
from cdnv2_jax.training.checkpoints import BestNetwork, RunCheckpoints
from cdnv2_jax.training.experiment import Candidate, Experiment, best_of
from cdnv2_jax.training.outline import Forecast, outline
from cdnv2_jax.training.pruning import Pruner
from cdnv2_jax.training.records import Meter, Profile, RunLog, read_metrics
from cdnv2_jax.training.step import Metrics, TrainState, ema_model, live_model
from cdnv2_jax.training.workdir import BEST, CHECKPOINTS
from cdnv2_jax.versions import changes, versions

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
STEPS_AHEAD = 2  # steps dispatched before the host waits for one: enough to keep the devices busy


class Training:
    """A run of an experiment in a work directory, resumed from its newest checkpoint if it has one.

    Attributes:
      experiment: the experiment, prepared for training.
      workdir: directory of all output.
      from_step: the step to resume after, whose checkpoint exists; None for the newest.
      pending: (step, loss) of steps that have not been checked yet; checking waits for the device.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        console: Console,
        profile: Profile | None = None,
        *,
        from_step: int | None = None,
    ):
        self.experiment, self.workdir, self.console = experiment, workdir, console
        self.from_step = from_step
        self.profile = profile or Profile(workdir)
        self.best = BestNetwork(workdir / BEST)
        data = experiment.config.data
        self.broken = BrokenImages(experiment.train_images, data.max_broken_images, data.max_megapixels)
        self.pending: list[tuple[int, jax.Array]] = []

    def run(self) -> list[Candidate[Any, Any]]:
        """Train to the end and return the trained networks: with averaged weights, if the run has them, and with live.

        Raises:
          Terminated: on SIGTERM, after saving a checkpoint of the last completed step.
          UserError: the loss is not finite, images cannot be read, the disk is full.
        """
        config, total = self.experiment.config, self.experiment.total_steps
        saving = RunCheckpoints(self.workdir / CHECKPOINTS, config.keep_checkpoints)
        trained: list[Candidate[Any, Any]] = []
        with stopping.postponed(), saving as self.checkpoints:
            state = self._starting_state()
            self.checkpoints.check_room(state)
            first = int(fetch(state.step))
            self.pruner = Pruner(self.experiment.graph, state)
            self.meter = Meter(config.data.batch_size, first)
            self.forecast = Forecast(config.data.batch_size, total, config.data.workers)
            for line in outline(self.experiment, first, self.pruner.stage):
                self.console.print(line)
            rows = host_batches(self.experiment.row, first, total, config.data.workers)
            with RunLog(self.workdir, total, first, self.console) as self.log, rows as batches:
                state, done = self._steps(state, first, batches)
                if done == total:
                    # In a very short run, stages may be due only after the last step; none is ever skipped.
                    state = self._prune(state, total)
                    trained = self._evaluate(state, total)
        if done < total:
            raise stopping.stopped(f"asked to stop: saved after step {done:,}; repeat the command to resume")
        return trained

    def _steps(self, state: TrainState, first: int, batches: Iterator[HostBatch]) -> tuple[TrainState, int]:
        """Train from step `first` to the end, or until asked to stop; return (state, steps done)."""
        experiment, total = self.experiment, self.experiment.total_steps
        train_step = experiment.train_step()
        known = first if self._evaluation_is_recorded(first) else None
        for step in range(first, total):
            if asked_to_stop(step) or (step != known and not self._evaluated(state, step)):
                self._save(state, step)
                return state, step
            self.profile.before_step(step)
            state = self._prune(state, step)
            batch = experiment.devices.put_batch(self._next_batch(batches, step))
            state, metrics = train_step(state, batch)
            self._after_step(state, step + 1, metrics)
            stopping.steps_to_lose()
        self.profile.end()
        return state, total

    def _after_step(self, state: TrainState, done: int, metrics: Metrics) -> None:
        """After `done` steps, wait for the device, and log and save if due."""
        config, steps_per_epoch = self.experiment.config, self.experiment.steps_per_epoch
        self.pending.append((done, metrics["loss"]))
        if len(self.pending) > STEPS_AHEAD:
            self.pending[-1 - STEPS_AHEAD][1].block_until_ready()
        last = done == self.experiment.total_steps
        if done % config.log_every_steps == 0 or last:
            self._log(done, metrics)
        if done % (config.checkpoint_every_epochs * steps_per_epoch) == 0 or last:
            with self.meter.paused():
                self._save(state, done)

    def _evaluated(self, state: TrainState, step: int) -> bool:
        """Evaluate after `step` if due; return False if SIGTERM interrupted it.

        A checkpoint of `step` that is due has been saved before, because an evaluation takes long and may be killed.
        """
        if step == 0 or step % (self.experiment.config.eval_every_epochs * self.experiment.steps_per_epoch):
            return True
        try:
            with self.meter.paused():
                self._evaluate(state, step)
        except stopping.Terminated:
            return False
        return True

    def _evaluation_is_recorded(self, step: int) -> bool:
        """Return whether the run was interrupted after the evaluation of `step`; the same in all processes."""
        records = read_metrics(self.workdir) if is_first_process() else []
        recorded = any(record["kind"] == "eval" and record["step"] == step for record in records)
        if jax.process_count() == 1:
            return recorded
        from jax.experimental import multihost_utils

        return bool(multihost_utils.broadcast_one_to_all(recorded))

    def _networks(self, state: TrainState) -> dict[str, Any]:
        """Return the networks that the run may keep, {"EMA": …, "live": …}; without an EMA only the latter."""
        graph, averages = self.experiment.graph, self.experiment.config.ema_decay
        return ({"EMA": ema_model(graph, state)} if averages else {}) | {"live": live_model(graph, state)}

    def _starting_state(self) -> TrainState:
        state = self.experiment.initial_state()
        if self.checkpoints.latest_step is None:
            return state
        state, description = self.checkpoints.restore(state, self.experiment.devices, self.from_step)
        self.broken.found = {int(index): name for index, name in description["broken_images"].items()}
        step = int(fetch(state.step))
        self.console.print(f"resuming after step {step:,}")
        if removed := self.checkpoints.remove_after(step):  # only with `from_step`
            self.console.print(f"removed the checkpoints of the later steps {shorten(list(map(str, removed)))}")
        recorded = [description.get(name) for name in ("versions", "conditions")]
        before = {name: value for part in recorded if isinstance(part, dict) for name, value in part.items()}
        if changed := changes(before, {**versions(*LIBRARIES), **self.experiment.devices.conditions()}):
            self.console.print(f"{changed}: from here on, the numbers may differ from those of an uninterrupted run")
        before, now = description["devices"], self.experiment.devices.count
        if self.experiment.per_replica and before != now:
            self.console.print(
                f"{before} devices before, {now} now: from here on, each normalises a different part of the batch"
            )
        return state

    def _next_batch(self, batches: Iterator[HostBatch], step: int) -> HostBatch:
        """Return this process's rows of the next batch, with only the fields that the step takes."""
        with self.meter.waiting():
            batch = next(batches)
        for name in self.broken.check(batch):
            self.log.broken_image(step=step + 1, name=name)
        return {name: batch[name] for name in self.experiment.device_fields if name in batch}

    def _prune(self, state: TrainState, step: int) -> TrainState:
        """Prune whatever is due before `step`, and log the stage if one was passed."""
        pruner = self.pruner
        state, pruned = pruner(state, step / self.experiment.total_steps)
        if pruned:
            reached = {"stage": pruner.stage, "stages": self.experiment.stages, "sparsity": pruner.sparsity}
            self.log.stage(step=step, **reached, **pruner.last_cut(state))
        return state

    def _log(self, step: int, metrics: Metrics) -> None:
        values = {name: float(fetch(value)) for name, value in metrics.items()}
        self._check_losses()
        measured = self.meter.read(step)
        self.log.train(
            step=step,
            epoch=step / self.experiment.steps_per_epoch,
            **values,
            learning_rate=float(jnp.asarray(self.experiment.schedule(step - 1))),
            stage=self.pruner.stage,
            sparsity=self.pruner.sparsity,
            **measured,
        )
        for line in self.forecast.lines(step, measured["images_per_second"], measured["input_wait"]):
            self.console.print(line)

    def _evaluate(self, state: TrainState, step: int) -> list[Candidate[Any, Any]]:
        """Evaluate averaged and live weights, and keep the better network if it is fully pruned and the best so far."""
        self._check_losses()
        experiment = self.experiment
        found = [
            Candidate(weights, model, experiment.evaluate(model)) for weights, model in self._networks(state).items()
        ]
        for name in experiment.broken.newly_found():
            self.log.broken_image(step=step, name=name)
        better = best_of(found)
        prunable = self.pruner.stage == experiment.stages  # others cannot be condensed
        kept = (
            prunable
            and not better.evaluation.not_finite
            and self.best.offer(
                lambda path, metadata: experiment.save(path, better.model, {**metadata, "weights": better.weights}),
                step=step,
                stage=self.pruner.stage,
                name=better.evaluation.score_name,
                score=better.evaluation.score,
            )
        )
        # Written last: a run that is resumed at this step repeats an evaluation that has no record.
        first, *others = found
        headline = "; ".join(map(str, found)) if others else first.evaluation.headline
        self.log.evaluation(
            headline + (f" → {self.best.path.name}/" if kept else ""),
            step=step,
            epoch=step / experiment.steps_per_epoch,
            **first.evaluation.recorded,
            weights=first.weights,
            **{f"{one.weights}_{key}": value for one in others for key, value in one.evaluation.recorded.items()},
        )
        return found

    def _save(self, state: TrainState, step: int) -> None:
        self._check_losses()
        # Each loss was computed before its update, so the last update may have broken the weights unnoticed.
        if not fetch(all_finite((state.params, state.stats, state.ema_params))):
            self._give_up("weights are not finite after", step)
        description = {
            "step": step,
            "config": dataclasses.asdict(self.experiment.config),
            "broken_images": {str(index): name for index, name in self.broken.found.items()},
            "devices": self.experiment.devices.count,
            "versions": versions(*LIBRARIES),
            "conditions": self.experiment.devices.conditions(),
        }
        self.log.publish()  # the records of steps that a resumed run does not repeat
        self.checkpoints.save(step, state, description)

    def _check_losses(self) -> None:
        """Raise UserError for the first step whose loss is not finite, naming the step and its images."""
        for step, loss in self.pending:
            value = float(fetch(loss))
            if not math.isfinite(value):
                self._give_up(f"the loss is {value} at", step)
        self.pending.clear()

    def _give_up(self, what: str, step: int) -> None:
        row = self.experiment.row
        first = (step - 1) * row.share.rows
        samples = [row.source[row.sample_index(r)] for r in range(first, first + row.share.rows)]
        raise UserError(
            f"{what} step {step}, batch of {shorten([sample.name for sample in samples], most=3)}: the run stops, its "
            f"last checkpoint is kept; try a smaller config.optimizer.learning_rate"
        )


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Return whether all floating-point arrays of a tree are free of NaN and infinity."""
    numbers = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.array([jnp.isfinite(x).all() for x in numbers]).all()


def asked_to_stop(step: int) -> bool:
    """Return whether to stop before `step`; every process must call this before every step.

    Several processes must end at the same step, so JAX's preemption service notifies all of them when one gets SIGTERM.
    """
    if jax.process_count() == 1:
        return stopping.asked()
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
