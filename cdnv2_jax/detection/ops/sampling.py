"""A random choice of anchors to train on, so that the many negatives do not drown the few positives."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from cdnv2_jax.detection.ops.assignment import NEGATIVE


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
