"""Layers with fixed connections: grouped and depthwise convolutions, their lowerings, squeeze-and-excitation,
and initialisers with the same distributions as PyTorch's (but other random bits)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.core import Tracer
from jax.typing import DTypeLike

from cdnv2_jax.layers import lowering as lowerings
from cdnv2_jax.layers.lowering import traced_platform
from cdnv2_jax.layers.norm import ActivationName, BatchNorm, activation_function
from cdnv2_jax.layers.valid_region import inside, mean_inside


def possible_lowerings(groups: int) -> dict[str, int]:
    """Return {lowering: how many neighbouring groups it merges into one, with zeros in the kernel between them}.

    "grouped" merges none; "pairs" and "quads" merge 2 and 4, if these divide the number of groups;
    "block_diagonal" merges all into a dense convolution.
    """
    merged = {"grouped": 1, "pairs": 2, "quads": 4, "block_diagonal": groups}
    return {name: count for name, count in merged.items() if groups % count == 0}


def block_diagonal_kernel(kernel: jax.Array, groups: int, merged: int) -> jax.Array:
    """Merge groups of a kernel: [h, w, in / groups, out] → [h, w, merged · in / groups, out].

    The result has groups / merged groups and is zero wherever an output would read an input from another group.
    """
    group_in, outputs = kernel.shape[2:]
    reads = np.arange(merged * group_in)[:, None] // group_in == np.arange(outputs) // (outputs // groups) % merged
    # Not a product with 0 and 1: its gradient is a sum on which XLA (jaxlib 0.10.2) crashes for two groups on a CPU.
    return jnp.where(reads, jnp.tile(kernel, (1, 1, merged, 1)), 0)


def grouped_conv(
    x: jax.Array, kernel: jax.Array, groups: int, *, training: bool = False, lowering: str | None = None
) -> jax.Array:
    """Compute a grouped convolution with stride 1 that keeps the size of the map.

    Args:
      x: feature map [batch, height, width, in].
      kernel: [k, k, in / groups, out], k odd; output channels ordered group by group.
      groups: number of groups; divides in and out.
      training: whether to choose a lowering that is fast including the gradient.
      lowering: one of `possible_lowerings(groups)`; None to choose from the table. The result is always the same.
    """
    possible = possible_lowerings(groups)
    if lowering is None:
        shape = lowerings.shape_of(x, kernel.shape[-1], groups)
        direction = "gradient" if training else "forward"
        lowering = lowerings.choose("grouped_conv", shape, direction, among=tuple(possible))
    merged = possible[lowering]
    if merged > 1:
        kernel = block_diagonal_kernel(kernel, groups, merged)
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups // merged,
    )


def half_size(x: jax.Array) -> jax.Array:
    """Average windows of 2×2, without a last odd row or column: [b, h, w, c] → [b, h // 2, w // 2, c]."""
    return nnx.avg_pool(x, (2, 2), strides=(2, 2))


class NormActConv(nnx.Module):
    """BatchNorm → activation → grouped 3×3 convolution without bias; [b, h, w, in] → [b, h, w, out].

    Where an optional `mask` [b, h, w, 1] is False, the convolution reads zeros, as beyond the edges of the map.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        activation: ActivationName,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.groups = groups
        self.activation: ActivationName = activation
        self.dtype = dtype
        self.norm = BatchNorm(in_channels, param_dtype=param_dtype)
        init = kaiming_normal_fan_out(out_channels, receptive_field=9)
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, in_channels // groups, out_channels), param_dtype))

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        h = inside(activation_function(self.activation)(self.norm(x)), mask)
        h, kernel = promote_dtype((h, self.kernel[...]), dtype=self.dtype)
        return grouped_conv(h, kernel, self.groups, training=not self.norm.use_running_average)


def grouped_pointwise(
    x: jax.Array, kernel: jax.Array, *, training: bool = False, lowering: str | None = None
) -> jax.Array:
    """Compute a grouped 1×1 convolution with shuffled outputs: output k · G + g is the k-th of group g.

    Args:
      x: [batch, height, width, G · i], channels ordered group by group.
      kernel: [G, i, k].
      training: whether to choose a lowering that is fast including the gradient.
      lowering: "batched", one product for each group, or "block_diagonal", one product with zeros between the groups,
        which moves less data; None to choose from the table. Both give the same result.

    Returns:
      [batch, height, width, k · G].
    """
    groups, members, outputs = kernel.shape
    in_channels, out_channels = groups * members, groups * outputs
    if lowering is None:
        shape = lowerings.shape_of(x, out_channels, groups)
        lowering = lowerings.choose("grouped_pointwise", shape, "gradient" if training else "forward")
    if lowering == "block_diagonal":
        diagonal = jnp.eye(groups, dtype=kernel.dtype)[:, None, None, :]
        return x @ (kernel[..., None] * diagonal).reshape(in_channels, out_channels)
    rows = x.reshape(-1, groups, members).transpose(1, 0, 2)
    product = rows @ kernel
    return product.transpose(1, 2, 0).reshape(*x.shape[:-1], out_channels)


DepthwiseLowering = Literal["convolution", "shifted_sum"]


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, stride: int = 1, lowering: DepthwiseLowering | None = None
) -> jax.Array:
    """Convolve every channel with its own 3×3 kernel, with padding 1.

    Args:
      x: [b, h, w, c].
      kernel: [3, 3, 1, c].
      stride: stride along both axes.
      lowering: "convolution", the back end's own, or "shifted_sum", nine products of the shifted map, which XLA fuses;
        None for the sum on CPUs, where the convolution takes 10 to 50 times as long and its gradient 2 to 90 times.
        Both give the same result.

    Returns:
      [b, ⌈h / stride⌉, ⌈w / stride⌉, c].
    """
    if lowering is None:
        lowering = "shifted_sum" if traced_platform() == "cpu" else "convolution"
    if lowering == "convolution":
        layout = ("NHWC", "HWIO", "NHWC")
        padding, channels = ((1, 1), (1, 1)), x.shape[-1]
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=layout, feature_group_count=channels
        )
    wide = jnp.promote_types(x.dtype, jnp.float32)  # nine terms would lose bits in narrower types
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(wide)
    height, width = (-(-side // stride) for side in x.shape[1:3])
    total = jnp.zeros((), wide)
    for i in range(3):
        for j in range(3):
            rows, columns = slice(i, i + height * stride, stride), slice(j, j + width * stride, stride)
            total += padded[:, rows, columns] * kernel[i, j, 0]
    return total.astype(x.dtype)


class DepthwiseConv(nnx.Module):
    """`depthwise_conv` without bias; [b, h, w, c] → [b, ⌈h / stride⌉, ⌈w / stride⌉, c]."""

    def __init__(
        self,
        channels: int,
        *,
        stride: int,
        kernel_init: nnx.Initializer,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        self.dtype = dtype
        self.kernel = nnx.Param(kernel_init(rngs.params(), (3, 3, 1, channels), param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel = promote_dtype((x, self.kernel[...]), dtype=self.dtype)
        return depthwise_conv(x, kernel, self.stride)


AfterNorm = Literal["relu", "relu6", "linear"]
FUNCTIONS: dict[AfterNorm, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "linear": lambda x: x,
}


class ConvNorm(nnx.Module):
    """Convolution without bias → BatchNorm → activation; [b, h, w, in] → [b, ⌈h / stride⌉, ⌈w / stride⌉, out].

    Where an optional `mask` [b, h, w, 1] is False, a window larger than 1 reads zeros, as beyond the edges of the map.

    Attributes:
      conv: kernel [window, window, in, out], or [3, 3, 1, out] if depthwise; padding window // 2.
      norm: over the outputs.
      activation: applied after the norm.
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
                raise ValueError("a depthwise convolution needs a window of 3 and equal numbers of inputs and outputs")
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


class SqueezeExcite(nnx.Module):
    """Squeeze-and-excitation: scales every channel by sigmoid(W2 · relu(W1 · mean over the map)).

    Input and output [batch, height, width, channels]; the hidden width is channels // reduction. The mean is over the
    whole map or, given `mask` [batch, height, width, 1], over the cells where it is True.
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
            raise ValueError(f"squeeze-excite: {channels} channels cannot be reduced by a factor of {reduction}")

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


def kaiming_normal_fan_out(out_channels: int, receptive_field: int = 1) -> nnx.Initializer:
    """Return the He normal initialiser by fan-out with the ReLU gain: variance 2 / (out_channels · receptive_field).

    PyTorch computes the fan-out from all output channels, whether the convolution is grouped or not.
    """
    return partial(_initial, _normal, math.sqrt(2 / (out_channels * receptive_field)))


def normal(deviation: float) -> nnx.Initializer:
    """Return a normal initialiser with the given standard deviation."""
    return partial(_initial, _normal, deviation)


def xavier_uniform(fan_in: int, fan_out: int) -> nnx.Initializer:
    """Return a uniform initialiser, ±√(6 / (fan_in + fan_out)) (Glorot and Bengio 2010); fans include the window."""
    return partial(_initial, _uniform, math.sqrt(6 / (fan_in + fan_out)))


def torch_linear(in_features: int) -> nnx.Initializer:
    """Return PyTorch's default initialiser for a Linear's weight and bias: uniform within ±1/√in_features."""
    return partial(_initial, _uniform, 1 / math.sqrt(in_features))


def _initial(
    draw: Callable[[jax.Array, int], jax.Array],
    scale: float,
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    # A network has a hundred different shapes, and compiling a random number generator for each takes 20 seconds.
    # Drawing powers of two and cutting them to size needs only about a dozen generators.
    numbers = draw(key, 1 << (math.prod(shape) - 1).bit_length())
    # Cut and cast by NumPy where there are values: JAX would compile programs for each shape here, too.
    values = numbers if isinstance(numbers, Tracer) else np.asarray(numbers)
    return jax.device_put((scale * values[: math.prod(shape)].reshape(shape)).astype(dtype))


@partial(jax.jit, static_argnums=1)
def _normal(key: jax.Array, count: int) -> jax.Array:
    return jax.random.normal(key, (count,))


@partial(jax.jit, static_argnums=1)
def _uniform(key: jax.Array, count: int) -> jax.Array:
    return jax.random.uniform(key, (count,), minval=-1.0)


class OneKey(nnx.Rngs):
    """Random keys for a network that is traced for its shapes alone, which takes three times as long if they differ."""

    def params(self) -> jax.Array:
        return jax.random.key(0)
