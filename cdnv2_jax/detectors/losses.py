"""Element-wise losses of the detectors, which the heads sum and normalise, and helpers of the heads."""

import jax
import jax.numpy as jnp
from flax import nnx

from cdnv2_jax.layers.convolutions import normal


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return −t · log p − (1 − t) · log(1 − p), p = sigmoid(logit), per element; `targets` is bool, same shape."""
    return jax.nn.softplus(jnp.where(targets, -logits, logits))


def focal_loss(logits: jax.Array, targets: jax.Array, *, alpha: float, gamma: float) -> jax.Array:
    """Return the sigmoid focal loss (Lin et al. 2017, equation 5) per element; `targets` is bool, same shape.

    α_t · (1 − p_t)^γ · (−log p_t), where p_t is the probability of the target and α_t is α for True, 1 − α for False.
    """
    towards = jnp.where(targets, logits, -logits)
    # (1 − p_t)^γ by its logarithm: a power of zero has no gradient for γ below 1.
    modulation = jnp.exp(-gamma * jax.nn.softplus(towards))
    return jnp.where(targets, alpha, 1 - alpha) * modulation * jax.nn.softplus(-towards)


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return −log softmax at the label: [..., c], int [...] → [...]."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]


def sum_where(mask: jax.Array, values: jax.Array) -> jax.Array:
    """Sum `values` where `mask` is True; the mask's axes are the first ones of the values."""
    mask = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
    return jnp.where(mask, values, 0).sum()


USUAL_CHANNELS = 256


def head_kernel(channels: int) -> nnx.Initializer:
    """Return N(0, 0.01), as in mmdetection 2.11, for the usual 256 input channels.

    Narrower heads get √(256 / channels) times the deviation: with 0.01, almost no signal would pass at first, and they
    would learn nothing for thousands of steps.
    """
    return normal(0.01 * (USUAL_CHANNELS / channels) ** 0.5)
