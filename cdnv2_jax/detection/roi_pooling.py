"""The features of boxes: each box pooled from the pyramid level that suits its size."""

import jax
import jax.numpy as jnp

from cdnv2_jax.detection.levels import Maps
from cdnv2_jax.detection.ops.roi_align import roi_align, roi_align_exact, roi_levels
from cdnv2_jax.detection.settings import DetectorSettings


def pool_boxes(maps: Maps, masks: Maps, boxes: jax.Array, settings: DetectorSettings) -> jax.Array:
    """[b, n, s, s, c]: RoIAlign of each box on one of P2 to P5 (Lin et al. 2017a, equation 1).

    Args:
      maps, masks: [b, h, w, c] and bool [b, h, w, 1] by stride; cells outside the masks have no influence.
      boxes: [b, n, 4], pixels, within the images.
    """
    strides = settings.feature_strides
    pooled = [_repeat_edge(maps[stride], masks[stride]) for stride in strides]
    size = settings.roi_size

    def gathered(pooled, boxes):
        return roi_align(
            pooled, strides, boxes, roi_levels(boxes), output_size=size, sampling_ratio=settings.sampling_ratio
        )

    def exact(pooled, boxes):
        levels = roi_levels(boxes)[:, None, None, None]
        found = jnp.zeros((boxes.shape[0], size, size, pooled[0].shape[-1]), pooled[0].dtype)
        for level, (x, stride) in enumerate(zip(pooled, strides, strict=True)):
            most = -(-max(x.shape[:2]) // size)
            of_level = roi_align_exact(x, boxes, stride, output_size=size, most_samples=most)
            found = jnp.where(levels == level, of_level.astype(found.dtype), found)
        return found

    return jax.vmap(exact if settings.exact_roi_align else gathered)(pooled, boxes)


def _repeat_edge(x: jax.Array, mask: jax.Array) -> jax.Array:
    """The cells just outside the mask, below and to the right, repeat the last ones inside.

    RoIAlign reads half a cell beyond the image; at the canvas's own edge it repeats the last cells.
    """
    for axis in (1, 2):
        beyond = ~mask & jnp.roll(mask, 1, axis)
        x = jnp.where(beyond, jnp.roll(x, 1, axis), x)
        mask = mask | beyond
    return x
