"""Grouped 3×3 convolution and the ways to lower it."""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike

from cdnv2_jax.layers import lowering as lowerings
from cdnv2_jax.layers.activation import ActivationName, activation_function
from cdnv2_jax.layers.batch_norm import BatchNorm
from cdnv2_jax.layers.initializers import kaiming_normal_fan_out
from cdnv2_jax.layers.valid_region import inside


def possible_lowerings(groups: int) -> dict[str, int]:
    """Lowering → how many neighbouring groups it makes one of, filling the kernel up with zeros.

    "grouped" leaves all as they are; "pairs" and "quads" merge 2 and 4, where these divide the groups;
    "block_diagonal" ends in a dense convolution.
    """
    merged = {"grouped": 1, "pairs": 2, "quads": 4, "block_diagonal": groups}
    return {name: count for name, count in merged.items() if groups % count == 0}


def block_diagonal_kernel(kernel: jax.Array, groups: int, merged: int) -> jax.Array:
    """[h, w, in / groups, out] → [h, w, merged · in / groups, out]: that of groups / merged groups.

    Zero wherever an output would read an input that was not in its own group.
    """
    group_in = kernel.shape[2]
    blocks = []
    for group, block in enumerate(jnp.split(kernel, groups, axis=-1)):
        before = group % merged
        blocks.append(jnp.pad(block, ((0, 0), (0, 0), (before * group_in, (merged - 1 - before) * group_in), (0, 0))))
    # Not a product with 0 and 1: its gradient is a sum, in which XLA of jaxlib 0.10.2 crashes for two groups on a CPU.
    return jnp.concatenate(blocks, axis=-1)


def grouped_conv(
    x: jax.Array, kernel: jax.Array, groups: int, *, training: bool = False, lowering: str | None = None
) -> jax.Array:
    """Grouped convolution, stride 1, same size.

    Args:
      x: feature map [batch, height, width, in].
      kernel: [k, k, in / groups, out], k odd; output channels ordered group by group.
      groups: number of groups; divides in and out.
      training: whether to choose a lowering that is fast with the gradient.
      lowering: one of `possible_lowerings(groups)`; None for the choice of the table. Same result whichever.
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


class NormActConv(nnx.Module):
    """BatchNorm → activation → grouped 3×3 convolution without bias; [b, h, w, in] → [b, h, w, out].

    Where a `mask` [b, h, w, 1] is given and False, the convolution reads zeros, as beyond the edges of the map.
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
