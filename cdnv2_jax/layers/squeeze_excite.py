"""Squeeze-and-excitation without biases, as CondenseNetV2 uses it."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.layers.initializers import torch_linear
from cdnv2_jax.layers.valid_region import mean_inside


class SqueezeExcite(nnx.Module):
    """Scales every channel by sigmoid(W2 · relu(W1 · mean over the map)).

    Input and output [batch, height, width, channels]; the hidden width is channels // reduction. The mean is that of
    the whole map or, given `mask` [batch, height, width, 1], of where it is True.
    """

    def __init__(
        self,
        channels: int,
        reduction: int,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        hidden = channels // reduction
        if hidden < 1:
            raise ValueError(f"squeeze-excite of {channels} channels cannot be reduced {reduction} times")

        def linear(n_in: int, n_out: int) -> nnx.Linear:
            return nnx.Linear(
                n_in,
                n_out,
                use_bias=False,
                kernel_init=torch_linear(n_in),
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        self.squeeze = linear(channels, hidden)
        self.excite = linear(hidden, channels)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        mean = mean_inside(x, mask)
        return x * jax.nn.sigmoid(self.excite(jax.nn.relu(self.squeeze(mean))))
