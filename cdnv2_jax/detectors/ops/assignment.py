"""Assignment of ground-truth boxes to anchors, and sampling of anchors for training."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

NEGATIVE = -1
"""Background: the anchor has no box."""
IGNORED = -2
"""The anchor is excluded from the losses."""

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
    """Return for each anchor the index of its box, NEGATIVE or IGNORED: int32 [n].

    An anchor is negative if its best overlap is below `negative`, and gets that box (the first of equals) if it is at
    least `positive`; in between it is ignored. Without any valid box, all anchors are negative.

    With `low_quality`, each box whose best overlap is at least `min_positive` then takes all anchors that share this
    overlap, whatever they were assigned; an anchor claimed by two boxes goes to the later one. With a `min_positive`
    of 0, even a box without any overlap does so: it takes all anchors, because all share the overlap 0.

    Args:
      iou: [m, n], each box's overlap with each anchor.
      valid: bool [m]; other boxes are padding and get no anchor.
      positive, negative, min_positive: IoU thresholds, at least 0.
      candidates: bool [n]; other anchors are IGNORED and do not count for a box's best overlap; None for all anchors.
    """
    boxes, anchors = iou.shape
    candidates = jnp.ones(anchors, bool) if candidates is None else candidates
    if not boxes:
        return jnp.where(candidates, NEGATIVE, IGNORED).astype(jnp.int32)
    # Without the barrier the compiler could compute overlaps twice, rounded differently; none would equal the best.
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sample:
    """Slots for the chosen anchors: positives first, then negatives, then unused slots.

    Attributes:
      indices: int32 [size], indices of anchors; 0 where not valid.
      positive: bool [size], whether the slot's anchor has a box.
      valid: bool [size], whether the slot is used.
    """

    indices: jax.Array
    positive: jax.Array
    valid: jax.Array


def sample(assigned: jax.Array, key: jax.Array, *, size: int, positive_share: float) -> Sample:
    """Sample up to `size` anchors uniformly without replacement (Faster R-CNN, section 3.1.3; as in mmdetection 2.11).

    At most ⌊size · positive_share⌋ are positive. Negatives get the remaining slots; slots that they do not need stay
    unused.

    Args:
      assigned: int32 [n] from `assign`: ≥ 0 for positive, NEGATIVE, or another value, which is never sampled.
      key: a key of jax.random.
    """
    rank = jax.random.uniform(key, assigned.shape, jnp.float32)
    is_positive, is_negative = assigned >= 0, assigned == NEGATIVE
    positives = jnp.minimum(is_positive.sum(), int(size * positive_share))
    negatives = jnp.minimum(is_negative.sum(), size - positives)
    slot = jnp.arange(size)
    positive, valid = slot < positives, slot < positives + negatives
    from_positives = _drawn(is_positive, rank, size)[slot]
    from_negatives = _drawn(is_negative, rank, size)[jnp.maximum(slot - positives, 0)]
    indices = jnp.where(positive, from_positives, from_negatives)
    return Sample(jnp.where(valid, indices, 0).astype(jnp.int32), positive, valid)


def _drawn(eligible: jax.Array, rank: jax.Array, size: int) -> jax.Array:
    """Return the eligible anchors by descending rank, followed by arbitrary ones: int [size]."""
    taken = min(size, eligible.shape[0])
    _, indices = lax.top_k(jnp.where(eligible, rank, -1), taken)
    return jnp.pad(indices, (0, size - taken))
