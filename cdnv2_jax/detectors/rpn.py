"""Region proposal network (Ren et al. 2015): objectness and boxes on every level, its losses and its proposals."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from cdnv2_jax.detectors.detector import Targets
from cdnv2_jax.detectors.losses import head_kernel, sigmoid_cross_entropy, sum_where
from cdnv2_jax.detectors.nms import top_k_and_next
from cdnv2_jax.detectors.ops.anchors import Maps
from cdnv2_jax.detectors.ops.assignment import assign, sample
from cdnv2_jax.detectors.ops.boxes import at_least_float32, clip_boxes, decode, encode, pairwise_iou
from cdnv2_jax.detectors.ops.nms import nms
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.layers.valid_region import inside


class RPNHead(nnx.Module):
    """3×3 convolution with ReLU, then 1×1 convolutions for objectness and box deltas, shared by all levels."""

    def __init__(self, channels: int, anchors_per_cell: int, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs):
        def conv(outputs: int, kernel: int) -> nnx.Conv:
            return nnx.Conv(
                channels,
                outputs,
                (kernel, kernel),
                padding=kernel // 2,
                kernel_init=head_kernel(channels),
                dtype=dtype,
                rngs=rngs,
            )

        self.conv = conv(channels, 3)
        self.objectness = conv(anchors_per_cell, 1)
        self.boxes = conv(4 * anchors_per_cell, 1)

    def __call__(self, maps: Maps, masks: Maps) -> tuple[list[jax.Array], list[jax.Array]]:
        """Return (objectness logits [b, n], deltas [b, n, 4]) per level, float32, n anchors in (y, x, anchor) order.

        `masks` are the images' cells, bool [b, h, w, 1]; the results do not depend on the cells outside.
        """
        objectness, deltas = [], []
        for stride, x in maps.items():
            x = jax.nn.relu(self.conv(inside(x, masks[stride])))
            batch = x.shape[0]
            objectness.append(at_least_float32(self.objectness(x)).reshape(batch, -1))
            deltas.append(at_least_float32(self.boxes(x)).reshape(batch, -1, 4))
        return objectness, deltas


def rpn_losses(
    objectness: jax.Array,
    deltas: jax.Array,
    anchors: ArrayLike,
    counted: jax.Array,
    targets: Targets,
    keys: jax.Array,
    settings: DetectorSettings,
) -> dict[str, jax.Array]:
    """Return {"rpn_class_loss", "rpn_box_loss"} of the samples, over Σ images (max(positives, 1) + max(negatives, 1)).

    Args:
      objectness: [b, n].
      deltas: [b, n, 4].
      anchors: [n, 4], of all levels.
      counted: bool [b, n], whether an anchor counts.
      targets, keys: for the b images.
    """
    anchors = jnp.asarray(anchors)

    def of_image(objectness, deltas, counted, boxes, valid, key):
        assigned = assign(
            pairwise_iou(boxes, anchors), valid, low_quality=True, candidates=counted, **settings.assignment
        )
        picked = sample(assigned, key, size=settings.rpn_samples, positive_share=settings.rpn_positive_share)
        positive = picked.positive & picked.valid
        at = anchors[picked.indices]
        wanted = jnp.where(positive[:, None], boxes[jnp.maximum(assigned[picked.indices], 0)], at)
        class_loss = sum_where(picked.valid, sigmoid_cross_entropy(objectness[picked.indices], positive))
        box_loss = sum_where(positive, jnp.abs(deltas[picked.indices] - encode(at, wanted)))
        negatives = picked.valid.sum() - positive.sum()
        return class_loss, box_loss, jnp.maximum(positive.sum(), 1) + jnp.maximum(negatives, 1)

    sums = jax.vmap(of_image)(objectness, deltas, counted, targets.boxes, targets.valid, keys)
    class_loss, box_loss, samples = (each.sum() for each in sums)
    return {"rpn_class_loss": class_loss / samples, "rpn_box_loss": box_loss / samples}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Proposals:
    """Boxes that may contain objects, best first: boxes float32 [..., n, 4], within the image; valid bool [..., n]."""

    boxes: jax.Array
    valid: jax.Array


class ProposalLimits(NamedTuple):
    """Anchors per level, IoU above which the worse of two boxes is suppressed, and proposals in total."""

    per_level: int
    nms_threshold: float
    total: int


def propose(
    objectness: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    anchors: Sequence[ArrayLike],
    counted: Sequence[jax.Array],
    size: jax.Array,
    limits: ProposalLimits,
) -> Proposals:
    """Make the proposals of one image: the best anchors of each level, decoded, suppressed within the level and merged.

    There are fewer than `limits.total` if the levels together have fewer anchors.

    Args:
      objectness, deltas, anchors, counted: [n], [n, 4], [n, 4] and bool [n] of every level.
      size: int [2], height and width of the image, which boxes are clipped to.
    """
    most = min(limits.per_level, max(x.shape[0] for x in objectness))
    levels = zip(objectness, deltas, anchors, counted, strict=True)
    picked = [_best_of_level(*level, size, most) for level in levels]
    boxes, scores = (jnp.stack(each) for each in zip(*picked, strict=True))
    # Per level, not all at once with levels as groups, because the number of pairs grows quadratically with the boxes.
    keep = jax.vmap(lambda b, s: nms(b, s, limits.nms_threshold, valid=s > -jnp.inf))(boxes, scores)
    scores = jnp.where(keep, scores, -jnp.inf).reshape(-1)
    best, indices = jax.lax.top_k(scores, min(limits.total, scores.shape[0]))
    return Proposals(boxes.reshape(-1, 4)[indices], best > -jnp.inf)


def _best_of_level(
    objectness: jax.Array, deltas: jax.Array, anchors: ArrayLike, counted: jax.Array, size: jax.Array, most: int
) -> tuple[jax.Array, jax.Array]:
    """Return (boxes [most, 4], logits [most]) of one level; logits are −∞ in the padding."""
    scores, indices, _ = top_k_and_next(jnp.where(counted, objectness, -jnp.inf), most)
    boxes = clip_boxes(decode(jnp.asarray(anchors)[indices], deltas[indices]), size)
    missing = most - scores.shape[0]
    return jnp.pad(boxes, ((0, missing), (0, 0))), jnp.pad(scores, (0, missing), constant_values=-jnp.inf)
