"""Boxes as corners x1, y1, x2, y2 in pixels, the far edge excluded: area, IoU, clipping, and encoding as deltas.

Results are float32, or float64 for float64 boxes.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

UNION_FLOOR = 1e-6


def at_least_float32(x: jax.Array) -> jax.Array:
    """Promote to float32 at least: boxes and losses are computed in it, whatever the network's dtype.

    In float16 the area of a box overflows beyond 256 × 256 pixels, and bfloat16 has 8 bits for a coordinate.
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def area(boxes: jax.Array) -> jax.Array:
    """Return width × height in square pixels, [..., 4] → [...]; 0 for a box whose corners are swapped."""
    boxes = at_least_float32(boxes)
    width = jnp.maximum(boxes[..., 2] - boxes[..., 0], 0)
    height = jnp.maximum(boxes[..., 3] - boxes[..., 1], 0)
    return width * height


def pairwise_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the intersection over union of each of the boxes a [n, 4] with each of b [m, 4]: [n, m].

    The union counts as at least 1e-6 square pixels, so that two boxes without area have an IoU of 0 (as in mmdetection
    2.11).
    """
    a, b = at_least_float32(a), at_least_float32(b)
    width = jnp.minimum(a[:, None, 2], b[None, :, 2]) - jnp.maximum(a[:, None, 0], b[None, :, 0])
    height = jnp.minimum(a[:, None, 3], b[None, :, 3]) - jnp.maximum(a[:, None, 1], b[None, :, 1])
    overlap = jnp.maximum(width, 0) * jnp.maximum(height, 0)
    union = area(a)[:, None] + area(b)[None, :] - overlap
    return overlap / jnp.maximum(union, UNION_FLOOR)


def clip_boxes(boxes: jax.Array, size: jax.Array) -> jax.Array:
    """Clip boxes [n, 4] to an image of `size` [2], height and width in pixels; boxes outside end up without area."""
    boxes, height, width = at_least_float32(boxes), size[0], size[1]
    return jnp.clip(boxes, 0, jnp.stack([width, height, width, height]).astype(boxes.dtype))


LARGEST_STRETCH = math.log(1000 / 16)
SMALLEST_SIDE = 1e-6
NO_SCALING = (1.0, 1.0, 1.0, 1.0)


def encode(anchors: jax.Array, boxes: jax.Array, stds: Sequence[float] = NO_SCALING) -> jax.Array:
    """Encode boxes [n, 4] relative to anchors [n, 4]: deltas [n, 4], (Δx, Δy) / anchor size, log size ratios, ÷ stds.

    Sides count as at least 1e-6 pixels, so that boxes without area have finite deltas and gradients.

    Args:
      anchors, boxes: x1, y1, x2, y2; leading axes broadcast.
      stds: four divisors of the deltas, which bring them to similar scales.
    """
    anchor_centres, anchor_sizes = _centres_and_sizes(anchors)
    centres, sizes = _centres_and_sizes(boxes)
    # Clamped before the division and the logarithm, because clamping afterwards would give NaN gradients.
    anchor_sizes, sizes = jnp.maximum(anchor_sizes, SMALLEST_SIDE), jnp.maximum(sizes, SMALLEST_SIDE)
    shifts = (centres - anchor_centres) / anchor_sizes
    stretches = jnp.log(sizes / anchor_sizes)
    deltas = jnp.concatenate([shifts, stretches], -1)
    return deltas / jnp.asarray(stds, deltas.dtype)


def decode(anchors: jax.Array, deltas: jax.Array, stds: Sequence[float] = NO_SCALING) -> jax.Array:
    """Decode deltas [n, 4] relative to anchors [n, 4] into boxes [n, 4], the inverse of `encode`; without clipping.

    A box has at most 1000 / 16 times its anchor's width and height, and at least 16 / 1000 (as in mmdetection 2.11).

    Args:
      anchors, deltas: leading axes broadcast.
      stds: as given to `encode`.
    """
    anchor_centres, anchor_sizes = _centres_and_sizes(anchors)
    deltas = at_least_float32(deltas)
    scaled = deltas * jnp.asarray(stds, deltas.dtype)
    centres = anchor_centres + scaled[..., :2] * anchor_sizes
    half_sizes = anchor_sizes * jnp.exp(jnp.clip(scaled[..., 2:], -LARGEST_STRETCH, LARGEST_STRETCH)) / 2
    return jnp.concatenate([centres - half_sizes, centres + half_sizes], -1)


def _centres_and_sizes(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    boxes = at_least_float32(boxes)
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low
