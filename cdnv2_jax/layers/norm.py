"""Batch normalisation with PyTorch's running statistics, and the activations that follow it."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

ActivationName = Literal["relu", "hard_swish"]


def activation_function(name: ActivationName) -> Callable[[jax.Array], jax.Array]:
    """Return the elementwise function `name`: max(x, 0), or x * min(max(x + 3, 0), 6) / 6 (paper section 4.1)."""
    return {"relu": jax.nn.relu, "hard_swish": jax.nn.hard_swish}[name]


EPSILON = 1e-5
MOMENTUM = 0.1  # as PyTorch defines it: the weight of the new batch


def constant(value: float, shape: int | tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Return an array full of `value`, for which `jnp.full` would compile a program for each shape.

    A network that is traced for its shapes alone takes no memory.
    """
    return jax.device_put(np.broadcast_to(np.asarray(value, dtype), shape))


class BatchNorm(nnx.Module):
    """Batch normalisation of the last axis over all others: y = (x − mean) / √(var + 1e-5) · scale + bias.

    Training normalises with the biased batch variance but updates the running variance with the *unbiased* one
    (n / (n − 1)), as PyTorch does. `flax.nnx.BatchNorm` uses the biased one for both, and so drifts from the official
    code by a factor that is 1.016 for 64 values and matters in lockstep comparisons.

    Statistics are computed in at least float32; the result has the input's dtype. `train()` and `eval()` of the
    enclosing model set `use_running_average`.
    """

    def __init__(self, features: int, *, initial_bias: float = 0.0, param_dtype: DTypeLike = jnp.float32):
        self.features = features
        self.scale = nnx.Param(constant(1.0, features, param_dtype))
        self.bias = nnx.Param(constant(initial_bias, features, param_dtype))
        self.mean = nnx.BatchStat(constant(0.0, features, param_dtype))
        self.var = nnx.BatchStat(constant(1.0, features, param_dtype))
        # How many batches the running statistics have seen: PyTorch's num_batches_tracked, kept for exact round trips.
        self.batches = nnx.BatchStat(jnp.zeros((), jnp.int32))
        self.use_running_average = False

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            axes = tuple(range(x.ndim - 1))
            mean = wide.mean(axes)
            var = jnp.square(wide - mean).mean(axes)
            track(self, mean, var, count=x.size // self.features)
        factor = self.scale[...] * jax.lax.rsqrt(var + EPSILON)
        return ((wide - mean) * factor + self.bias[...]).astype(x.dtype)


def track(norm: BatchNorm, mean: jax.Array, var: jax.Array, count: int) -> None:
    """Update the running statistics with the mean and biased variance [features] of `count` values per channel.

    A function rather than a method, because `nnx.tabulate` compiles every public method of a module.
    """
    # A single value per channel has no unbiased variance. PyTorch refuses to train on it, too.
    if count < 2:
        raise ValueError(f"batch normalisation in training needs more than 1 value per channel, got {count}")
    unbiased = var * (count / (count - 1))
    norm.mean[...] = _blend(norm.mean[...], mean)
    norm.var[...] = _blend(norm.var[...], unbiased)
    norm.batches[...] += 1


def _blend(running: jax.Array, batch: jax.Array) -> jax.Array:
    return ((1 - MOMENTUM) * running + MOMENTUM * batch).astype(running.dtype)
