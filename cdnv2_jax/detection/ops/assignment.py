"""Which true box each anchor is to find, by overlap (Faster R-CNN, section 3.1.2; rules as mmdetection 2.11)."""

import jax
import jax.numpy as jnp
from jax import lax

NEGATIVE = -1
"""An anchor that is to find nothing."""
IGNORED = -2
"""An anchor that is not trained."""

NO_OVERLAP = -1.0


def assign(
    iou: jax.Array,
    valid: jax.Array,
    *,
    positive: float | jax.Array,
    negative: float | jax.Array,
    min_positive: float | jax.Array,
    low_quality: bool,
    candidates: jax.Array | None = None,
) -> jax.Array:
    """int32 [n]: for each anchor the index of its box, or NEGATIVE, or IGNORED.

    By an anchor's best overlap: below `negative` it is negative, from `positive` on it gets the box (of equals the
    first), in between it is ignored. Without any valid box all anchors are negative.

    With `low_quality`, each box whose best overlap is at least `min_positive` then takes all of the anchors that
    share this best overlap, from whatever they had; where two boxes take the same one, the later has it. With a
    `min_positive` of 0 this holds for a box without overlap too: it takes all of the anchors, as none touches it.

    Args:
      iou: [m, n], each box's overlap with each anchor.
      valid: bool [m]; other boxes are padding and get nothing.
      positive, negative, min_positive: thresholds of IoU, at least 0.
      candidates: bool [n]; other anchors are IGNORED and do not count for a box's best overlap. None: all.
    """
    boxes, anchors = iou.shape
    candidates = jnp.ones(anchors, bool) if candidates is None else candidates
    if not boxes:
        return jnp.where(candidates, NEGATIVE, IGNORED).astype(jnp.int32)
    # The barrier: were the compiler to compute overlaps twice, rounded differently, no anchor would equal the best.
    iou = lax.optimization_barrier(jnp.where(valid[:, None] & candidates, lax.stop_gradient(iou), NO_OVERLAP))
    best = iou.max(0)
    assigned = jnp.where(best < negative, NEGATIVE, IGNORED)
    assigned = jnp.where(best >= positive, iou.argmax(0), assigned)
    if low_quality:
        box_best = iou.max(1, keepdims=True, initial=NO_OVERLAP)
        taken = (iou == box_best) & (box_best >= min_positive)
        taker = jnp.where(taken, jnp.arange(boxes)[:, None], -1).max(0)
        assigned = jnp.where(taker >= 0, taker, assigned)
    return jnp.where(candidates, assigned, IGNORED).astype(jnp.int32)
