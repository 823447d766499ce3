"""Grouped 1×1 convolution with the channel shuffle that follows it in LGC, and the ways to lower it."""

import jax
import jax.numpy as jnp

from cdnv2_jax.layers import lowering as lowerings


def grouped_pointwise(
    x: jax.Array, kernel: jax.Array, *, training: bool = False, lowering: str | None = None
) -> jax.Array:
    """Grouped 1×1 convolution, outputs shuffled: output k · G + g is the k-th of group g.

    Args:
      x: [batch, height, width, G · i], channels ordered group by group.
      kernel: [G, i, k].
      training: whether to choose a lowering that is fast with the gradient.
      lowering: "batched", one product for each group, or "block_diagonal", one product with zeros between the groups,
        which moves less data; None for the choice of the table. Same result either way.

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
