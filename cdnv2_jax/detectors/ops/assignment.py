"""Which true box each anchor is assigned to, and which anchors are sampled to train on."""

import dataclasses

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
      candidates: bool [n]; other anchors are IGNORED and do not count for a box's best overlap.
      None: all.
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sample:
    """Slots for the chosen anchors: positives first, then negatives, then unused slots.

    Attributes:
      indices: int32 [size], of anchors; 0 where not valid.
      positive: bool [size], whether the slot's anchor has a box.
      valid: bool [size], whether the slot is used.
    """

    indices: jax.Array
    positive: jax.Array
    valid: jax.Array


def sample(assigned: jax.Array, key: jax.Array, *, size: int, positive_share: float) -> Sample:
    """Up to `size` anchors, drawn evenly without replacement (Faster R-CNN, section 3.1.3; as mmdetection 2.11).

    At most ⌊size · positive_share⌋ are positive. Slots that positives do not need go to negatives; those that
    negatives do not need stay unused.

    Args:
      assigned: int32 [n], as `assign` returns it: ≥ 0 positive, NEGATIVE, or other, which is never drawn.
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
    """int [size]: the eligible anchors by falling rank, followed by anything."""
    taken = min(size, eligible.shape[0])
    _, indices = lax.top_k(jnp.where(eligible, rank, -1), taken)
    return jnp.pad(indices, (0, size - taken))
