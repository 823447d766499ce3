"""A whole run on one machine: batches → steps, pruning between them, evaluation, checkpoints."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from cdnv2_jax.condensation.prune import sparsity, stages_passed
from cdnv2_jax.data.batches import Batch, ShuffledBatches
from cdnv2_jax.data.sources import held_out_batches, training_batches
from cdnv2_jax.errors import UserError
from cdnv2_jax.evaluation import compiled_forward, evaluate
from cdnv2_jax.models.condensenet import CondenseNet
from cdnv2_jax.models.registry import create_model, model_entry
from cdnv2_jax.training.checkpoints import RunCheckpoints
from cdnv2_jax.training.config import TrainConfig
from cdnv2_jax.training.optimizer import learning_rate_schedule, make_optimizer
from cdnv2_jax.training.progress import RunLog
from cdnv2_jax.training.state import TrainState, create_state, ema_model, live_model
from cdnv2_jax.training.step import Metrics, Objective, Pruner, make_train_step


class Run:
    """One experiment: the network and everything around it that does not change while it trains.

    Attributes:
      config: what it was made from. batches: the training data. total_steps: its length.
      graph: the network's structure; with a `TrainState` it makes the network.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        data = config.data
        self.batches: ShuffledBatches = training_batches(
            data.source,
            image_size=data.image_size,
            batch_size=data.batch_size,
            num_classes=config.model.num_classes,
            seed=config.seed,
            max_shift=data.max_shift,
        )
        self.total_steps = config.epochs * self.batches.steps_per_epoch
        self.schedule = learning_rate_schedule(config.optimizer, self.total_steps, self.batches.steps_per_epoch)
        self.optimizer: optax.GradientTransformation = make_optimizer(config.optimizer, self.schedule)
        model = create_model(
            config.model.name,
            num_classes=config.model.num_classes,
            rngs=nnx.Rngs(config.seed),
            dtype=jnp.dtype(config.model.dtype),
            **config.model.overrides,
        )
        model.architecture.check_image(data.image_size, data.image_size)
        last_side = model.architecture.map_side(len(model.architecture.stages) - 1, data.image_size)
        if data.batch_size * last_side**2 < 2:
            raise UserError("config.data.batch_size 1 leaves batch normalisation one value per channel: use 2 or more")
        self.stages = model.architecture.condensation_stages
        self.graph, self.initial_state = create_state(model, self.optimizer)

    def train(self, workdir: Path, console: Console) -> TrainState:
        """Runs to the end, from the newest checkpoint in `workdir` if there is one."""
        config, per_epoch = self.config, self.batches.steps_per_epoch
        objective = Objective(config.label_smoothing, config.group_lasso, config.ema_decay)
        train_step = make_train_step(self.graph, self.optimizer, objective)
        with RunCheckpoints(workdir / "checkpoints", config.keep_checkpoints) as checkpoints:
            state = self.initial_state
            if checkpoints.latest_step is not None:
                state = checkpoints.restore(state)
                console.print(f"resuming after step {int(state.step)}")
            first = int(state.step)
            pruning = Pruning(self, state)
            with RunLog(workdir, self.total_steps, first, console) as log:
                clock = time.perf_counter()
                for step in range(first, self.total_steps):
                    state = pruning.before_step(state, step, log)
                    state, metrics = train_step(state, *map(jnp.asarray, self.batches[step]))
                    done = step + 1
                    if done % config.log_every_steps == 0 or done == self.total_steps:
                        self._log(done, metrics, pruning, time.perf_counter() - clock, log)
                        clock = time.perf_counter()
                    if done % (config.eval_every_epochs * per_epoch) == 0 and done < self.total_steps:
                        self._evaluate(state, done, log)
                        clock = time.perf_counter()
                    if done % (config.checkpoint_every_epochs * per_epoch) == 0:
                        checkpoints.save(done, state)
                # A run so short that stages are due after its last step passes them now: none is ever skipped.
                state = pruning.before_step(state, self.total_steps, log)
                self._evaluate(state, self.total_steps, log)
        return state

    def final_model(self, state: TrainState) -> CondenseNet:
        """The network to evaluate and keep: averaged weights if the run averages, else the live ones."""
        return ema_model(self.graph, state) if self.config.ema_decay else live_model(self.graph, state)

    def _log(self, step: int, metrics: Metrics, pruning: "Pruning", seconds: float, log: RunLog) -> None:
        loss = float(metrics["loss"])
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {step}: the run stops, its last checkpoint is kept; "
                f"try a smaller config.optimizer.learning_rate"
            )
        steps = (step - 1) % self.config.log_every_steps + 1
        log.train(
            step=step,
            epoch=step / self.batches.steps_per_epoch,
            loss=loss,
            accuracy=float(metrics["accuracy"]),
            learning_rate=float(jnp.asarray(self.schedule(step - 1))),
            stage=pruning.stage,
            sparsity=pruning.sparsity,
            images_per_second=steps * self.config.data.batch_size / seconds,
        )

    def _evaluate(self, state: TrainState, step: int, log: RunLog) -> None:
        result = evaluate(compiled_forward(self.final_model(state)), held_out_for(self.config))
        log.evaluation(
            step=step,
            epoch=step / self.batches.steps_per_epoch,
            loss=result.loss,
            top1=result.top1,
            top5=result.top5,
            weights="EMA" if self.config.ema_decay else "live",
        )


class Pruning:
    """The pruning of a run and how far it has come.

    Attributes:
      stage: the last stage that the whole network has passed. sparsity: share of learned weights removed.
    """

    def __init__(self, run: Run, state: TrainState):
        self._run = run
        self._pruner = Pruner(run.graph, state)
        self._look(state)

    def before_step(self, state: TrainState, step: int, log: RunLog) -> TrainState:
        """The state with all that is due before step `step` pruned; a stage passed is logged."""
        state, pruned = self._pruner(state, step / self._run.total_steps)
        if pruned:
            self._look(state)
            log.stage(step=step, stage=self.stage, stages=self._run.stages, sparsity=self.sparsity)
        return state

    def _look(self, state: TrainState) -> None:
        model = live_model(self._run.graph, state)
        self.stage, self.sparsity = stages_passed(model), float(sparsity(model))


def held_out_for(config: TrainConfig) -> Iterator[tuple[Batch, np.ndarray]]:
    """The held-out batches of a config, prepared as its model's registry entry says."""
    data = config.data
    return held_out_batches(
        data.source,
        directory=data.directory,
        image_size=data.image_size,
        batch_size=data.eval_batch_size,
        num_classes=config.model.num_classes,
        interpolation=model_entry(config.model.name).interpolation,
    )
