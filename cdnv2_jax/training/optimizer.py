"""Learning-rate schedule and optimizer, computed as in PyTorch and the official scheduler."""

import jax
import jax.numpy as jnp
import optax

from cdnv2_jax.training.config import OptimizerConfig


def rate_scale(config: OptimizerConfig, batch_size: int) -> float:
    """Return the factor of both learning rates for this batch size; 1 without a reference batch."""
    return batch_size / config.reference_batch if config.reference_batch else 1.0


def learning_rate_schedule(
    config: OptimizerConfig, total_steps: int, steps_per_epoch: int, batch_size: int = 0
) -> optax.Schedule:
    """Return the schedule: step → learning rate.

    Linear from `warmup_from` during the t_w steps of the warm-up, then ½ · lr · (1 + cos(π (t − t_w) / (T − t_w))) or,
    with `decay_epochs`, lr multiplied by `decay_factor` after each of them (even before the warm-up has ended).

    Args:
      config: settings of the optimizer.
      total_steps: T.
      steps_per_epoch: updates in an epoch.
      batch_size: images per update, for scaling the rates from their reference batch; 0 for no scaling.
    """
    scale = rate_scale(config, batch_size) if batch_size else 1.0
    rate, start = config.learning_rate * scale, config.warmup_from * scale
    warmup = round(config.warmup_epochs * steps_per_epoch) + config.warmup_steps
    decays = [epoch * steps_per_epoch for epoch in config.decay_epochs]

    def by_steps(step: jax.typing.ArrayLike) -> jax.Array:
        passed = sum((jnp.asarray(step) >= decay).astype(jnp.int32) for decay in decays)
        return jnp.power(config.decay_factor, passed)

    def by_cosine(step: jax.typing.ArrayLike) -> jax.Array:
        return 0.5 * (1 + jnp.cos(jnp.pi * (step - warmup) / max(total_steps - warmup, 1)))

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        rising = start + (rate - start) * step / max(warmup, 1)
        warm = jnp.where(jnp.asarray(step) < warmup, rising, rate)
        if decays:
            return warm * by_steps(step)
        return jnp.where(jnp.asarray(step) < warmup, rising, rate * by_cosine(step))

    return schedule


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Make SGD as in `torch.optim.SGD` (weight decay is added to the gradient before momentum; no dampening) or AdamW
    as in `torch.optim.AdamW` (weight decay is added to the update).

    Weight decay skips biases and BatchNorm (tensors of one dimension) unless `decay_vectors` is set. Gradients are
    clipped before anything else.
    """
    decay = optax.add_decayed_weights(config.weight_decay, mask=None if config.decay_vectors else _is_matrix)
    if config.name == "adamw":
        update = [optax.scale_by_adam(), decay]
    else:
        update = [decay, optax.trace(config.momentum, nesterov=config.nesterov)]
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(*clip, *update, optax.scale_by_learning_rate(schedule))


def _is_matrix(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda p: p.ndim >= 2, params)
