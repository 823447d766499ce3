"""Non-maximum suppression: of boxes that overlap strongly, only the best is kept."""

import jax
import jax.numpy as jnp
from jax import lax

from cdnv2_jax.detectors.ops.boxes import pairwise_iou


def nms(
    boxes: jax.Array,
    scores: jax.Array,
    iou_threshold: jax.Array | float,
    *,
    groups: jax.Array | None = None,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Return which boxes greedy suppression keeps: bool [n], in the given order.

    From the best score down, a box is kept unless its IoU with a kept box of the same group exceeds the threshold.
    Among equal scores, the first counts as better. This needs n² booleans of memory.

    Args:
      boxes: [n, 4].
      scores: [n].
      iou_threshold: may be traced.
      groups: int [n], for example classes or levels; boxes suppress only boxes of their own group; None for one group.
      valid: bool [n]; other boxes are not kept and suppress nothing; None for all.
    """
    valid = jnp.ones(scores.shape, bool) if valid is None else valid
    would_suppress = _would_suppress(lax.stop_gradient(boxes), lax.stop_gradient(scores), iou_threshold, groups)

    # After k steps the best k boxes are final, because a box depends only on better ones. So the fixed point is unique
    # and equals the greedy result. Long chains of overlapping boxes are rare, so few steps reach it.
    def step(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        keep, _ = state
        following = valid & ~(would_suppress & keep[:, None]).any(0)
        return following, (following != keep).any()

    keep, _ = lax.while_loop(lambda state: state[1], step, (valid, jnp.array(True)))
    return keep


def best_after_nms(
    boxes: jax.Array,
    scores: jax.Array,
    iou_threshold: jax.Array | float,
    count: int,
    *,
    groups: jax.Array | None = None,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the indices of the best `count` boxes that `nms` keeps, best first: (int32 [count], bool [count]).

    If there are fewer, the second array is False in the remaining slots, and the index there is 0.
    """
    keep = nms(boxes, scores, iou_threshold, groups=groups, valid=valid)
    best = jnp.lexsort((-lax.stop_gradient(scores), ~keep))[:count]
    found = keep[best]
    missing = count - best.shape[0]
    indices = jnp.pad(jnp.where(found, best, 0).astype(jnp.int32), (0, missing))
    return indices, jnp.pad(found, (0, missing))


def _would_suppress(
    boxes: jax.Array, scores: jax.Array, iou_threshold: jax.Array | float, groups: jax.Array | None
) -> jax.Array:
    """Return whether box i, if kept, suppresses box j: bool [n, n]."""
    index = jnp.arange(scores.shape[0])
    tie = (scores[:, None] == scores) & (index[:, None] < index)
    better = (scores[:, None] > scores) | tie
    overlapping = pairwise_iou(boxes, boxes) > iou_threshold
    return better & overlapping if groups is None else better & overlapping & (groups[:, None] == groups)
