"""One training step and one pruning step, jitted; pruning changes values only, so neither is compiled again."""

import dataclasses
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cdnv2_jax.condensation.prune import layer_stage, prune_layers, total_group_lasso
from cdnv2_jax.condensation.schedule import due_stages
from cdnv2_jax.layers.masked_conv import ConnectionMask
from cdnv2_jax.models.condensenet import CondenseNet
from cdnv2_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a step minimises and averages; see `TrainConfig` for the fields."""

    label_smoothing: float = 0.0
    group_lasso: float = 0.0
    ema_decay: float = 0.0


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Mean over the batch of −Σ q · log softmax, q = (1 − smoothing) on the label + smoothing / classes on all."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    target = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    return -((1 - smoothing) * target + smoothing * log_probabilities.mean(-1)).mean()


def make_train_step(graph: nnx.GraphDef, optimizer: optax.GradientTransformation, objective: Objective) -> TrainStep:
    """step(state, images [b, h, w, 3], labels [b]) → (state, {"loss", "accuracy"}); the state passed in is donated.

    `loss` is the smoothed cross-entropy alone, measured before the update; the group lasso joins the gradient.
    """

    def loss_and_state(params: nnx.State, state: TrainState, images: jax.Array, labels: jax.Array):
        model: CondenseNet = nnx.merge(graph, params, state.stats, state.masks, copy=True)
        logits = model(images)
        loss = smoothed_cross_entropy(logits, labels, objective.label_smoothing)
        total = loss
        if objective.group_lasso:
            total += objective.group_lasso * total_group_lasso(model)
        accuracy = (logits.argmax(-1) == labels).mean()
        return total, (nnx.state(model, nnx.BatchStat), {"loss": loss, "accuracy": accuracy})

    def step(state: TrainState, images: jax.Array, labels: jax.Array) -> tuple[TrainState, Metrics]:
        gradients, (stats, metrics) = jax.grad(loss_and_state, has_aux=True)(state.params, state, images, labels)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
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

    return jax.jit(step, donate_argnums=0)


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
        model: CondenseNet = nnx.merge(graph, state.params, state.stats, state.masks)
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
