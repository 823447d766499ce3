"""From scored boxes to detections: score threshold, non-maximum suppression per class, the best of the remaining."""

import jax
import jax.numpy as jnp

from cdnv2_jax.detectors.detector import Detections
from cdnv2_jax.detectors.ops.nms import best_after_nms
from cdnv2_jax.detectors.settings import DetectorSettings


def top_k_and_next(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (values, indices, next): the k largest of [n], or all if there are fewer, and the largest left out.

    Among equals, the first comes first. `next` is a scalar, −∞ if nothing was left out.
    """
    n = values.shape[0]
    best, indices = jax.lax.top_k(values, min(k + 1, n))
    return best[:k], indices[:k], best[k] if n > k else jnp.full((), -jnp.inf, values.dtype)


def best_detections(scores: jax.Array, boxes: jax.Array, left_out: jax.Array, settings: DetectorSettings) -> Detections:
    """Select the detections of one image, without a batch axis.

    Of the pairs of box and class that score above the threshold, the best `settings.nms_candidates` enter suppression
    within each class, and the best `settings.most_detections` of those kept become detections.

    `truncated` means that a limit on candidates may have changed the result: a pair that was left out, here or before,
    scored above the threshold and, if the number of detections is at its limit, above the last of them.

    Args:
      scores: [n, c], probabilities.
      boxes: [n, 4], or one for each class [n, c, 4].
      left_out: scalar, the best score among boxes left out before.
    """
    n, classes = scores.shape
    enough = jnp.where(scores > settings.score_threshold, scores, -jnp.inf).reshape(-1)
    best, indices, rest = top_k_and_next(enough, settings.nms_candidates)
    labels = (indices % classes).astype(jnp.int32)
    of_pair = boxes[indices // classes] if boxes.ndim == 2 else boxes.reshape(n * classes, 4)[indices]
    chosen, valid = best_after_nms(
        of_pair, best, settings.nms_threshold, settings.most_detections, groups=labels, valid=best > -jnp.inf
    )
    found = jnp.where(valid, best[chosen], 0)
    rest = jnp.maximum(rest, left_out)
    return Detections(
        boxes=jnp.where(valid[:, None], of_pair[chosen], 0),
        scores=found,
        labels=jnp.where(valid, labels[chosen], 0),
        valid=valid,
        finite=jnp.isfinite(scores).all() & jnp.isfinite(boxes).all(),
        truncated=(rest > settings.score_threshold) & (rest > jnp.where(valid.all(), found[-1], -jnp.inf)),
    )
