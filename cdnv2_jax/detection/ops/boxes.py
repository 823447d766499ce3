"""Boxes as corners x1, y1, x2, y2 in pixels, the far edge excluded: their areas, overlaps and limits."""

import jax
import jax.numpy as jnp

UNION_FLOOR = 1e-6


def area(boxes: jax.Array) -> jax.Array:
    """[..., 4] → [...]: width × height in square pixels; 0 for a box whose corners are swapped."""
    width = jnp.maximum(boxes[..., 2] - boxes[..., 0], 0)
    height = jnp.maximum(boxes[..., 3] - boxes[..., 1], 0)
    return width * height


def pairwise_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """[n, m]: intersection over union of each of the boxes a [n, 4] with each of b [m, 4].

    The union counts as at least 1e-6 square pixels, so that two boxes without area have an IoU of 0 (as mmdetection
    2.11).
    """
    width = jnp.minimum(a[:, None, 2], b[None, :, 2]) - jnp.maximum(a[:, None, 0], b[None, :, 0])
    height = jnp.minimum(a[:, None, 3], b[None, :, 3]) - jnp.maximum(a[:, None, 1], b[None, :, 1])
    overlap = jnp.maximum(width, 0) * jnp.maximum(height, 0)
    union = area(a)[:, None] + area(b)[None, :] - overlap
    return overlap / jnp.maximum(union, UNION_FLOOR)


def clip_boxes(boxes: jax.Array, size: jax.Array) -> jax.Array:
    """Boxes [n, 4] cut to an image of `size` [2], its height and width in pixels; what lay outside has no area."""
    height, width = size[0], size[1]
    return jnp.clip(boxes, 0, jnp.stack([width, height, width, height]).astype(boxes.dtype))
