"""Feature pyramid network (Lin et al. 2017), as mmdetection 2.11 builds it."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.detectors.ops.anchors import Maps
from cdnv2_jax.layers.convolutions import xavier_uniform
from cdnv2_jax.layers.valid_region import inside


class FPN(nnx.Module):
    """1×1 laterals, nearest upsampling from coarse to fine, 3×3 outputs; then coarser levels on top.

    Attributes:
      strides: strides of the maps it reads.
      top: levels beyond the backbone's. "subsampled": one, every second cell of the last output (Faster R-CNN);
        "convolved": two, by 3×3 convolutions of stride 2 from the backbone's last map, without ReLU (RetinaNet).
    """

    def __init__(
        self,
        in_channels: Mapping[int, int],
        channels: int,
        *,
        strides: Sequence[int],
        top: str,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.strides = tuple(strides)
        self.top = top

        def conv(inputs: int, kernel: int, stride: int = 1) -> nnx.Conv:
            return nnx.Conv(
                inputs,
                channels,
                (kernel, kernel),
                strides=stride,
                padding=kernel // 2,
                kernel_init=xavier_uniform(inputs * kernel**2, channels * kernel**2),
                dtype=dtype,
                rngs=rngs,
            )

        self.laterals = nnx.List([conv(in_channels[stride], 1) for stride in strides])
        self.outputs = nnx.List([conv(channels, 3) for _ in strides])
        above = [in_channels[strides[-1]], channels] if top == "convolved" else []
        self.downs = nnx.List([conv(inputs, 3, stride=2) for inputs in above])

    def __call__(self, features: Mapping[int, jax.Array], masks: Mapping[int, jax.Array]) -> Maps:
        """Return the levels by stride, finest first, [b, h, w, channels] each.

        Args:
          features: {stride: [b, h, w, c]}, each map half as large as the one before.
          masks: {stride: bool [b, h, w, 1]} for all levels, the image's cells. Values inside do not depend on the cells
            outside; values outside are meaningless.
        """
        levels: Maps = {}
        merged = None
        for number in reversed(range(len(self.strides))):
            stride = self.strides[number]
            lateral = self.laterals[number](features[stride])
            merged = lateral if merged is None else lateral + _doubled(merged)
            levels[stride] = self.outputs[number](inside(merged, masks[stride]))
        levels = dict(sorted(levels.items()))
        last = self.strides[-1]
        if self.top == "subsampled":
            levels[2 * last] = levels[last][:, ::2, ::2]
        x = features[last]
        for down in self.downs:
            x = down(inside(x, masks[last]))
            last *= 2
            levels[last] = x
        return levels


def _doubled(x: jax.Array) -> jax.Array:
    """Upsample by 2, repeating the nearest neighbour."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
