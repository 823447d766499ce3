"""The train state, and the step that advances it: loss → gradient → optimizer → moving averages."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cdnv2_jax.devices import AXIS, Devices, fetch
from cdnv2_jax.layers.condensed import ConnectionIndex
from cdnv2_jax.layers.learned import ConnectionMask
from cdnv2_jax.layers.lowering import Precision, multiplying


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of a run between two steps.

    Attributes:
      step: int32, updates done.
      params: the network's parameters.
      stats: its BatchNorm statistics.
      masks: its connections: `ConnectionMask` or, in a condensed network, `ConnectionIndex`. Never averaged.
      opt_state: state of the optimizer.
      ema_params: moving average of the parameters.
      ema_stats: moving average of the statistics.
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
    """Create (graph, state) of a new run; `nnx.merge` combines them into a network in training mode.

    The state owns copies of the model's arrays, so the model stays usable although the train step donates the state.
    """
    set_training_mode(model)
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat, (ConnectionMask, ConnectionIndex))
    params, stats, masks = _copied(states)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        masks=masks,
        opt_state=jax.jit(optimizer.init)(params),
        ema_params=_copied(params),
        ema_stats=_copied(stats),
    )
    return graph, state


def live_model(graph: nnx.GraphDef, state: TrainState) -> Any:
    """Return the network with the live weights, in evaluation mode; it owns copies of its arrays."""
    return _evaluation_model(graph, state.params, state.stats, state.masks)


def ema_model(graph: nnx.GraphDef, state: TrainState) -> Any:
    """Return the network with averaged weights and statistics, in evaluation mode; it owns copies of its arrays."""
    return _evaluation_model(graph, state.ema_params, state.ema_stats, state.masks)


def _evaluation_model(graph: nnx.GraphDef, *states: nnx.State) -> Any:
    model = nnx.merge(graph, *_copied(fetch(states)))
    model.eval()
    return model


@jax.jit
def _copied(tree: Any) -> Any:
    # One compiled program instead of one call for each of hundreds of arrays.
    return jax.tree.map(jnp.copy, tree)


Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Loss = Callable[[Any, Batch], tuple[jax.Array, Metrics]]
"""(network, batch) → (scalar to minimise, scalars to record, including "loss")."""

Gradients = Callable[[nnx.State, nnx.State, nnx.State, Batch], tuple[nnx.State, nnx.State, Metrics]]
"""(params, stats, masks, batch) → (gradient, new stats, metrics)."""


def make_train_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    *,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    preprocess: Callable[[Batch, jax.Array], Batch] | None = None,
    devices: Devices | None = None,
    per_replica: bool = False,
    precision: Precision = "default",
) -> TrainStep:
    """Compile step(state, batch) → (new state, metrics of the network before the update); `state` is donated.

    Args:
      graph: the network's structure, in training mode.
      optimizer: applied to all parameters.
      loss: the loss function.
      ema_decay: decay of the moving averages of weights and statistics.
      accumulate: micro-batches that a batch is split into and computed one after the other, before the update.
      preprocess: (batch, step) → batch for `loss`; None if batches need no preprocessing.
      devices: devices that the batch is sharded over; None for one device.
      per_replica: every device normalises its own part of the batch, as with PyTorch's DistributedDataParallel, and
        gradients, running statistics and metrics are averaged. Otherwise, sharding does not affect normalisation.
      precision: precision of float32 products, see `multiplying`.
    """
    gradients = _gradients(graph, loss, accumulate)
    if devices is not None and per_replica:
        gradients = _on_each(devices, gradients)

    @multiplying(precision)
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
            ema_params=moving_average(state.ema_params, params, ema_decay),
            ema_stats=moving_average(state.ema_stats, stats, ema_decay),
        )
        return new_state, metrics

    return jax.jit(step, donate_argnums=0, out_shardings=None if devices is None else devices.everywhere)


def _gradients(graph: nnx.GraphDef, loss: Loss, accumulate: int) -> Gradients:
    """Return the gradient function of the mean loss over `accumulate` micro-batches, each normalised by itself."""

    def loss_of(params: nnx.State, stats: nnx.State, masks: nnx.State, batch: Batch):
        model = nnx.merge(graph, params, stats, masks, copy=True)
        total, metrics = loss(model, batch)
        return total, (nnx.state(model, nnx.BatchStat), metrics)

    def of_part(params: nnx.State, stats: nnx.State, masks: nnx.State, part: Batch):
        gradient, (stats, metrics) = jax.grad(loss_of, has_aux=True)(params, stats, masks, part)
        return gradient, stats, metrics

    def of_batch(params: nnx.State, stats: nnx.State, masks: nnx.State, batch: Batch):
        def add_part(carry: tuple[Any, Any, Any], part: Batch):
            total, stats, metrics = carry
            gradient, stats, part_metrics = of_part(params, stats, masks, part)
            return (_sum(total, gradient), stats, _sum(metrics, part_metrics)), None

        parts = _parts(batch, accumulate)
        shapes = jax.eval_shape(of_part, params, stats, masks, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[2]))
        (gradient, stats, metrics), _ = jax.lax.scan(add_part, (zeros[0], stats, zeros[1]), parts)
        gradient, metrics = jax.tree.map(lambda x: x / accumulate, (gradient, metrics))
        return gradient, stats, metrics

    return of_part if accumulate == 1 else of_batch


def _parts(batch: Batch, count: int) -> Batch:
    """Split [b, …] into [count, b / count, …]; part j holds rows j, j + count, …, so rows stay on their devices."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)


def _sum(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _on_each(devices: Devices, gradients: Gradients) -> Gradients:
    """Compute `gradients` on every device for its own part of the batch, then average over devices.

    Averaging running statistics in each step gives what timm's `--dist-bn reduce` has at the end of an epoch, because
    they are linear in the batch statistics.
    """

    def mean(x: jax.Array) -> jax.Array:
        # Counters are equal on all devices.
        return jax.lax.pmean(x, AXIS) if jnp.issubdtype(x.dtype, jnp.floating) else jax.lax.pmax(x, AXIS)

    def on_one(params: nnx.State, stats: nnx.State, masks: nnx.State, batch: Batch):
        return jax.tree.map(mean, gradients(params, stats, masks, batch))

    whole, part = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    return jax.shard_map(
        on_one, mesh=devices.mesh, in_specs=(whole, whole, whole, part), out_specs=whole, check_vma=False
    )


def moving_average(average: nnx.State, new: nnx.State, decay: float) -> nnx.State:
    """Return decay · average + (1 − decay) · new; counters (integers) are copied."""

    def blend(a: jax.Array, n: jax.Array) -> jax.Array:
        return a * decay + (1 - decay) * n if jnp.issubdtype(n.dtype, jnp.floating) else n

    return jax.tree.map(blend, average, new)
