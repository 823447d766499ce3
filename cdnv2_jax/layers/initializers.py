"""Initial values as PyTorch would draw them (in distribution, not in bits)."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


def kaiming_normal_fan_out(out_channels: int, receptive_field: int = 1) -> nnx.Initializer:
    """Normal, variance 2 / (out_channels · receptive_field): He initialisation by fan-out with the ReLU gain.

    PyTorch computes the fan-out of a grouped convolution from all its output channels, groups or not.
    """
    return partial(_initial, _normal, math.sqrt(2 / (out_channels * receptive_field)))


def normal(deviation: float) -> nnx.Initializer:
    """Normal, of that standard deviation."""
    return partial(_initial, _normal, deviation)


def xavier_uniform(fan_in: int, fan_out: int) -> nnx.Initializer:
    """Uniform within ±√(6 / (fan_in + fan_out)) (Glorot and Bengio 2010); a convolution's fans count its window."""
    return partial(_initial, _uniform, math.sqrt(6 / (fan_in + fan_out)))


def torch_linear(in_features: int) -> nnx.Initializer:
    """PyTorch's default for the weight and the bias of a Linear: uniform within ±1/√in_features."""
    return partial(_initial, _uniform, 1 / math.sqrt(in_features))


def _initial(
    draw: Callable[[jax.Array, int], jax.Array],
    scale: float,
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    # A network has a hundred different shapes, and compiling a random number generator for each takes 20 seconds.
    # Drawing powers of two and cutting them to size takes a dozen.
    numbers = draw(key, 1 << (math.prod(shape) - 1).bit_length())
    return _cut_to_size(numbers, scale, shape).astype(dtype)


@partial(jax.jit, static_argnums=1)
def _normal(key: jax.Array, count: int) -> jax.Array:
    return jax.random.normal(key, (count,))


@partial(jax.jit, static_argnums=1)
def _uniform(key: jax.Array, count: int) -> jax.Array:
    return jax.random.uniform(key, (count,), minval=-1.0)


@partial(jax.jit, static_argnums=2)
def _cut_to_size(numbers: jax.Array, scale: float, shape: tuple[int, ...]) -> jax.Array:
    return scale * numbers[: math.prod(shape)].reshape(shape)
