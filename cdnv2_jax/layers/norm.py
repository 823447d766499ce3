"""Batch normalisation with PyTorch's running statistics, and the activations that follow it."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.layers.lowering import traced_platform

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

    Statistics are computed in at least float32, in one pass over the input; the result has the input's dtype. The
    running statistics carry no gradient, as in PyTorch. `train()` and `eval()` of the enclosing model set
    `use_running_average`.

    Attributes:
      joined: how many of the last channels were concatenated to the others. A TPU takes their statistics separately:
        what computes a part sums it while writing, which saves a pass over the map. A GPU would start more kernels.
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
        self.joined = 0

    def __call__(self, x: jax.Array) -> jax.Array:
        scale, bias = self.scale[...], self.bias[...]
        if self.use_running_average:
            factor = scale * jax.lax.rsqrt(self.var[...] + EPSILON)
            return ((_wide(x) - self.mean[...]) * factor + bias).astype(x.dtype)
        joined = self.joined if traced_platform() == "tpu" else 0
        y, mean, var = _normalise(joined, x, scale, bias, shift_of(x, self.mean[...]))
        track(self, mean, var, count=x.size // self.features)
        return y


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def shift_of(x: jax.Array, running_mean: jax.Array) -> jax.Array:
    """Return a value [features] near the mean of each channel, from which one pass measures mean and variance.

    The variance's relative error is about 1e-7 · (mean − shift)² / variance. Usually the shift is the mean of the
    images' central pixels, so at most height · width of these, however far the mean is from zero.

    For 16-bit inputs on accelerators it is the running mean, which is known before: on TPUs, a convolution can then sum
    while it writes the map, which saves a pass over it, and on GPUs, it saves a kernel for each layer. Its error,
    1e-7 · (mean − shift)², is below the 1e-6 · mean² that rounding to bfloat16 has added to the variance, unless the
    running mean is far off.
    """
    if traced_platform() != "cpu" and x.dtype.itemsize == 2:
        return running_mean.astype(jnp.float32)
    centre = tuple(side // 2 for side in x.shape[1:-1])
    return jax.lax.stop_gradient(_wide(x[:, *centre]).mean(0))


def _normalised(
    joined: int, x: jax.Array, scale: jax.Array, bias: jax.Array, shift: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (the normalised x, mean, biased variance); both statistics have no gradient."""
    return _forward(joined, x, scale, bias, shift)[0]


def _forward(joined: int, x: jax.Array, scale: jax.Array, bias: jax.Array, shift: jax.Array):
    mean, var = _statistics(joined, x, shift)
    inverse = jax.lax.rsqrt(var + EPSILON)
    y = ((_wide(x) - mean) * (scale * inverse) + bias).astype(x.dtype)
    return (y, mean, var), (x, scale, bias, mean, inverse)


def _statistics(joined: int, x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return (mean, biased variance) of each channel."""
    if joined:
        parts = (slice(None, -joined), slice(-joined, None))
        mean, var = map(
            jnp.concatenate, zip(*(_statistics(0, x[..., part], shift[part]) for part in parts), strict=True)
        )
        return mean, var
    axes, away = tuple(range(x.ndim - 1)), _wide(x) - shift
    distance = away.mean(axes)
    return shift + distance, jnp.maximum(jnp.square(away).mean(axes) - jnp.square(distance), 0)


def _backward(joined: int, saved: tuple[jax.Array, ...], gradients: tuple[jax.Array, ...]):
    del joined  # only the forward pass computes statistics
    # Derived by JAX, it takes two more passes over x: for sums that are zero, and for others that differ by a factor.
    x, scale, bias, mean, inverse = saved
    dy, centred = _wide(gradients[0]), _wide(x) - mean
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    dbias = dy.sum(axes)
    dscale = (dy * centred).sum(axes) * inverse
    dx = (dy - (centred * (dscale * inverse / count) + dbias / count)) * (scale * inverse)
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(bias.dtype), jnp.zeros_like(mean)


_normalise: Any = jax.custom_vjp(_normalised, nondiff_argnums=(0,))
_normalise.defvjp(_forward, _backward)


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
