"""One training step and one pruning step, jitted; pruning changes values only, so neither is compiled again."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cdnv2_jax.devices import AXIS, Devices, fetch
from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.learned import ConnectionMask
from cdnv2_jax.pruning.prune import due_stages, layer_stage, prune_layers
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Gradients = Callable[[nnx.State, nnx.State, nnx.State, Batch], tuple[nnx.State, nnx.State, Metrics]]


class Objective(Protocol):
    """What a step minimises and averages.

    Attributes:
      ema_decay: of the moving averages of weights and statistics. accumulate: parts that a batch is worked through in.
    """

    @property
    def ema_decay(self) -> float: ...
    @property
    def accumulate(self) -> int: ...

    def __call__(self, model: Any, batch: Batch) -> tuple[jax.Array, Metrics]:
        """What to minimise (a scalar), and scalars to show, "loss" among them."""
        ...


def check_parts(config: RunConfig, devices: Devices) -> None:
    """UserError unless every device gets equally many images of each part of a batch."""
    batch_size = config.data.batch_size
    devices.check_batch(batch_size, "config.data.batch_size")
    if batch_size % (config.accumulate * devices.count):
        raise UserError(
            f"config.accumulate {config.accumulate} does not divide the {batch_size // devices.count} images "
            f"that each of {devices.count} devices has of a batch"
        )


def make_train_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    *,
    preprocess: Callable[[Batch, jax.Array], Batch] | None = None,
    devices: Devices | None = None,
    per_replica: bool = False,
) -> TrainStep:
    """step(state, batch) → (state, the objective's metrics, measured before the update); `state` is donated.

    Args:
      graph, optimizer, objective: of the run.
      preprocess: (batch, step) → what the objective takes; None when batches are that already.
      devices: that the batch is split over; None for one.
      per_replica: every device normalises its own part of the batch, as with PyTorch's DistributedDataParallel, and
        gradients, running statistics and metrics are averaged. Otherwise the batch is one, however it is split.
    """
    gradients = _gradients(graph, objective)
    if devices is not None and per_replica:
        gradients = _on_each(devices, gradients)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if preprocess is not None:
            batch = preprocess(batch, state.step)
        gradient, stats, metrics = gradients(state.params, state.stats, state.masks, batch)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = cast(nnx.State, optax.apply_updates(state.params, updates))
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            stats=stats,
            masks=state.masks,
            opt_state=opt_state,
            ema_params=moving_average(state.ema_params, params, objective.ema_decay),
            ema_stats=moving_average(state.ema_stats, stats, objective.ema_decay),
        )
        return new_state, metrics

    return jax.jit(step, donate_argnums=0, out_shardings=None if devices is None else devices.everywhere)


def _gradients(graph: nnx.GraphDef, objective: Objective) -> Gradients:
    """(params, stats, masks, batch) → (gradient, statistics after it, metrics), in `objective.accumulate` parts."""

    def loss(params: nnx.State, stats: nnx.State, masks: nnx.State, batch: Batch):
        model = nnx.merge(graph, params, stats, masks, copy=True)
        total, metrics = objective(model, batch)
        return total, (nnx.state(model, nnx.BatchStat), metrics)

    def of_part(params: nnx.State, stats: nnx.State, masks: nnx.State, part: Batch):
        gradient, (stats, metrics) = jax.grad(loss, has_aux=True)(params, stats, masks, part)
        return gradient, stats, metrics

    def of_batch(params: nnx.State, stats: nnx.State, masks: nnx.State, batch: Batch):
        def add_part(carry: tuple[Any, Any, Any], part: Batch):
            total, stats, metrics = carry
            gradient, stats, part_metrics = of_part(params, stats, masks, part)
            return (_sum(total, gradient), stats, _sum(metrics, part_metrics)), None

        parts = _parts(batch, objective.accumulate)
        nothing = jax.eval_shape(of_part, params, stats, masks, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (nothing[0], nothing[2]))
        (gradient, stats, metrics), _ = jax.lax.scan(add_part, (zeros[0], stats, zeros[1]), parts)
        gradient, metrics = jax.tree.map(lambda x: x / objective.accumulate, (gradient, metrics))
        return gradient, stats, metrics

    return of_part if objective.accumulate == 1 else of_batch


def _parts(batch: Batch, count: int) -> Batch:
    """[b, …] → [count, b / count, …]; part j holds rows j, j + count, …, so that devices keep the rows they have."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)


def _sum(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _on_each(devices: Devices, gradients: Gradients) -> Gradients:
    """`gradients` of every device's part of the batch by itself, then the mean over devices.

    The mean of running statistics in each step is what timm's `--dist-bn reduce` has at an epoch's end: they are
    linear in the batches' statistics.
    """

    def mean(x: jax.Array) -> jax.Array:
        # Counters are the same everywhere.
        return jax.lax.pmean(x, AXIS) if jnp.issubdtype(x.dtype, jnp.floating) else jax.lax.pmax(x, AXIS)

    def on_one(params: nnx.State, stats: nnx.State, masks: nnx.State, batch: Batch):
        return jax.tree.map(mean, gradients(params, stats, masks, batch))

    whole, part = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    return jax.shard_map(
        on_one, mesh=devices.mesh, in_specs=(whole, whole, whole, part), out_specs=whole, check_vma=False
    )


def moving_average(average: nnx.State, new: nnx.State, decay: float) -> nnx.State:
    """decay · average + (1 − decay) · new; counters (integers) are copied."""

    def blend(a: jax.Array, n: jax.Array) -> jax.Array:
        return a * decay + (1 - decay) * n if jnp.issubdtype(n.dtype, jnp.floating) else n

    return jax.tree.map(blend, average, new)


class Pruner:
    """Keeps a run's masks at the stage that is due.

    Attributes:
      reached: {condensation factor: stage} that all layers of that factor have passed.
    """

    def __init__(self, graph: nnx.GraphDef, state: TrainState):
        model = nnx.merge(graph, state.params, state.stats, fetch(state.masks))
        self.reached = {}
        for conv in model.masked_convs():
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
        return dataclasses.replace(state, masks=masks), True
