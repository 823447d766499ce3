"""Convolution, batch normalisation, activation: what MobileNetV2 and ShuffleNetV2 are made of."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.layers.batch_norm import BatchNorm
from cdnv2_jax.layers.depthwise_conv import DepthwiseConv
from cdnv2_jax.layers.valid_region import inside

AfterNorm = Literal["relu", "relu6", "linear"]
FUNCTIONS: dict[AfterNorm, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "linear": lambda x: x,
}


class ConvNorm(nnx.Module):
    """Convolution without bias → BatchNorm → activation; [b, h, w, in] → [b, ⌈h / stride⌉, ⌈w / stride⌉, out].

    Where a `mask` [b, h, w, 1] is given and False, a window larger than 1 reads zeros, as beyond the edges of the map.

    Attributes:
      conv: its kernel is [window, window, in, out], of a depthwise one [3, 3, 1, out]; padded to keep the size.
      norm: over the outputs.
      activation: what follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        activation: AfterNorm,
        kernel_init: nnx.Initializer,
        window: Literal[1, 3] = 1,
        stride: int = 1,
        depthwise: bool = False,
        norm_bias: float = 0.0,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.activation: AfterNorm = activation
        self.window = window
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs, "kernel_init": kernel_init}
        if depthwise:
            if window != 3 or in_channels != out_channels:
                raise ValueError("a depthwise convolution has a window of 3 and as many outputs as inputs")
            self.conv = DepthwiseConv(in_channels, stride=stride, **types)
        else:
            self.conv = nnx.Conv(
                in_channels,
                out_channels,
                (window, window),
                strides=stride,
                padding=window // 2,
                use_bias=False,
                **types,
            )
        self.norm = BatchNorm(out_channels, initial_bias=norm_bias, param_dtype=param_dtype)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        if self.window > 1:
            x = inside(x, mask)
        return FUNCTIONS[self.activation](self.norm(self.conv(x)))
