"""Faster R-CNN: pooling of boxes from the pyramid, RoI head, losses and detection."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.detectors.detector import Detections, PyramidDetector, Targets, all_finite, with_area
from cdnv2_jax.detectors.losses import softmax_cross_entropy, sum_where
from cdnv2_jax.detectors.nms import best_detections
from cdnv2_jax.detectors.ops.anchors import Maps, level_anchors, level_anchors_inside
from cdnv2_jax.detectors.ops.assignment import IGNORED, assign, sample
from cdnv2_jax.detectors.ops.boxes import at_least_float32, clip_boxes, decode, encode, pairwise_iou
from cdnv2_jax.detectors.ops.roi_align import roi_align, roi_align_exact, roi_levels
from cdnv2_jax.detectors.rpn import ProposalLimits, Proposals, RPNHead, propose, rpn_losses
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.layers.convolutions import normal, xavier_uniform
from cdnv2_jax.networks.network import ModulePath, Network


def pool_boxes(maps: Maps, masks: Maps, boxes: jax.Array, settings: DetectorSettings) -> jax.Array:
    """Pool each box by RoIAlign from one of P2 to P5 (Lin et al. 2017a, equation 1): [b, n, s, s, c].

    Args:
      maps, masks: [b, h, w, c] and bool [b, h, w, 1] by stride; cells outside the masks have no influence.
      boxes: [b, n, 4], pixels, within the images.
    """
    strides, size = settings.feature_strides, settings.roi_size
    sizes = jnp.stack([_cells_inside(masks[stride]) for stride in strides], 1)

    def gathered(maps, sizes, boxes):
        levels, ratio = roi_levels(boxes), settings.sampling_ratio
        return roi_align(maps, strides, boxes, levels, sizes=sizes, output_size=size, sampling_ratio=ratio)

    def exact(maps, sizes, boxes):
        levels = roi_levels(boxes)[:, None, None, None]
        found = jnp.zeros((boxes.shape[0], size, size, maps[0].shape[-1]), maps[0].dtype)
        for level, (x, stride) in enumerate(zip(maps, strides, strict=True)):
            most = -(-max(x.shape[:2]) // size)
            of_level = roi_align_exact(x, boxes, stride, size=sizes[level], output_size=size, most_samples=most)
            found = jnp.where(levels == level, of_level.astype(found.dtype), found)
        return found

    pool = exact if settings.exact_roi_align else gathered
    return jax.vmap(pool)([maps[stride] for stride in strides], sizes, boxes)


def _cells_inside(mask: jax.Array) -> jax.Array:
    """Return rows and columns of the cells that belong to each image, its mask bool [b, h, w, 1]: int [b, 2]."""
    return jnp.stack([mask.any((2, 3)).sum(1), mask.any((1, 3)).sum(1)], 1)


class RoIHead(nnx.Module):
    """Two Linears with ReLU, then one for the classes, with the background last, and one for a box per class."""

    def __init__(self, inputs: int, hidden: int, num_classes: int, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int, kernel_init: nnx.Initializer) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, kernel_init=kernel_init, dtype=dtype, rngs=rngs)

        self.num_classes = num_classes
        self.fc1 = linear(inputs, hidden, xavier_uniform(inputs, hidden))
        self.fc2 = linear(hidden, hidden, xavier_uniform(hidden, hidden))
        self.classes = linear(hidden, num_classes + 1, normal(0.01))
        self.boxes = linear(hidden, 4 * num_classes, normal(0.001))

    def __call__(self, pooled: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map [..., s, s, channels] to (class logits [..., c + 1], deltas [..., c, 4]), float32."""
        x = pooled.reshape(*pooled.shape[:-3], -1)
        x = jax.nn.relu(self.fc2(jax.nn.relu(self.fc1(x))))
        deltas = at_least_float32(self.boxes(x))
        return at_least_float32(self.classes(x)), deltas.reshape(*deltas.shape[:-1], self.num_classes, 4)


class RoISamples(NamedTuple):
    """The proposals sampled for the losses, s for each image.

    Attributes:
      boxes: [b, s, 4].
      valid: bool [b, s]; the others are padding.
      labels: int [b, s]; the number of classes for background.
      wanted: [b, s, 4], the object's box; for background, the proposal itself.
    """

    boxes: jax.Array
    valid: jax.Array
    labels: jax.Array
    wanted: jax.Array


def sample_rois(proposals: Proposals, targets: Targets, keys: jax.Array, settings: DetectorSettings) -> RoISamples:
    """Sample `settings.roi_samples` boxes per image from its ground truth followed by its proposals."""
    s = settings

    def of_image(proposals: Proposals, targets: Targets, key: jax.Array) -> RoISamples:
        of_proposals = assign(
            pairwise_iou(targets.boxes, proposals.boxes),
            targets.valid,
            positive=s.roi_positive_iou,
            negative=s.roi_positive_iou,
            min_positive=s.roi_positive_iou,
            low_quality=False,
            candidates=proposals.valid,
        )
        own = jnp.where(targets.valid, jnp.arange(targets.valid.shape[0]), IGNORED)
        assigned = jnp.concatenate([own.astype(of_proposals.dtype), of_proposals])
        picked = sample(assigned, key, size=s.roi_samples, positive_share=s.roi_positive_share)
        boxes = jnp.concatenate([targets.boxes, proposals.boxes])[picked.indices]
        positive = picked.positive & picked.valid
        matched = jnp.maximum(assigned[picked.indices], 0)
        return RoISamples(
            boxes=boxes,
            valid=picked.valid,
            labels=jnp.where(positive, targets.labels[matched], s.num_classes),
            wanted=jnp.where(positive[:, None], targets.boxes[matched], boxes),
        )

    return jax.vmap(of_image)(proposals, targets, keys)


def roi_losses(
    logits: jax.Array, deltas: jax.Array, samples: RoISamples, settings: DetectorSettings
) -> dict[str, jax.Array]:
    """Return {"class_loss", "box_loss"} over a batch's samples: softmax cross-entropy, and L1 for the object's class.

    Args:
      logits: [b, s, c + 1].
      deltas: [b, s, c, 4].
    """
    count = jnp.maximum(samples.valid.sum(), 1)
    positive = samples.valid & (samples.labels < settings.num_classes)
    at_label = jnp.where(positive, samples.labels, 0)[..., None, None]
    of_class = jnp.take_along_axis(deltas, at_label, axis=-2)[..., 0, :]
    codes = encode(samples.boxes, samples.wanted, settings.roi_deviations)
    return {
        "class_loss": sum_where(samples.valid, softmax_cross_entropy(logits, samples.labels)) / count,
        "box_loss": sum_where(positive, jnp.abs(of_class - codes)) / count,
    }


class FasterRCNN(PyramidDetector):
    """Backbone, P2 to P6, region proposals on all levels, RoI head on P2 to P5 (Ren et al. 2015, Lin et al. 2017)."""

    def __init__(
        self, settings: DetectorSettings, backbone: Network, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs
    ):
        super().__init__(settings, backbone, dtype=dtype, rngs=rngs)
        s = settings
        self.rpn = RPNHead(s.fpn_channels, s.anchors_per_cell, dtype=dtype, rngs=rngs)
        self.roi_head = RoIHead(s.roi_size**2 * s.fpn_channels, s.hidden, s.num_classes, dtype=dtype, rngs=rngs)

    def losses(self, images: jax.Array, sizes: jax.Array, targets: Targets, key: jax.Array) -> dict[str, jax.Array]:
        """Return {"rpn_class_loss", "rpn_box_loss", "class_loss", "box_loss"}; see `PyramidDetector.losses`.

        Proposals are constants for the second stage: its gradient reaches the pyramid, not the RPN.
        """
        targets = with_area(targets)
        maps, masks = self.levels(images, sizes)
        objectness, deltas = self.rpn(maps, masks)
        anchors, counted = self._anchors(maps, sizes)
        rpn_key, roi_key = jax.random.split(key)
        losses = rpn_losses(
            jnp.concatenate(objectness, axis=1),
            jnp.concatenate(deltas, axis=1),
            np.concatenate(anchors),
            jnp.concatenate(counted, axis=1),
            targets,
            jax.random.split(rpn_key, images.shape[0]),
            self.settings,
        )
        objectness, deltas = jax.lax.stop_gradient((objectness, deltas))
        per_level = self.settings.proposals_per_level_training
        proposals = self._propose(objectness, deltas, anchors, counted, sizes, per_level)
        samples = sample_rois(proposals, targets, jax.random.split(roi_key, images.shape[0]), self.settings)
        pooled = pool_boxes(maps, masks, samples.boxes, self.settings)
        return losses | roi_losses(*self.roi_head(pooled), samples, self.settings)

    def detect(self, images: jax.Array, sizes: jax.Array) -> Detections:
        """Detect objects; see `PyramidDetector.detect`.

        `truncated` ignores boxes dropped by the limits on proposals, because they have no class score.
        """
        maps, masks = self.levels(images, sizes)
        anchors, counted = self._anchors(maps, sizes)
        objectness, offsets = self.rpn(maps, masks)
        per_level = self.settings.proposals_per_level
        proposals = self._propose(objectness, offsets, anchors, counted, sizes, per_level)
        logits, deltas = self.roi_head(pool_boxes(maps, masks, proposals.boxes, self.settings))

        def of_image(logits, deltas, proposals, size):
            scores = jnp.where(proposals.valid[:, None], jax.nn.softmax(logits)[:, :-1], 0)
            boxes = decode(proposals.boxes[:, None], deltas, self.settings.roi_deviations)
            boxes = clip_boxes(boxes, size)
            return best_detections(scores, boxes, jnp.zeros((), scores.dtype), self.settings)

        found = jax.vmap(of_image)(logits, deltas, proposals, sizes)
        return dataclasses.replace(found, finite=found.finite & all_finite(*objectness, *offsets, logits, deltas))

    def class_columns(self, labels: Sequence[int]) -> dict[ModulePath, list[int]]:
        """See `PyramidDetector.class_columns`; the background is the last class, and every other one has its boxes."""
        return {
            ("roi_head", "classes"): [*labels, self.settings.num_classes],
            ("roi_head", "boxes"): [4 * label + side for label in labels for side in range(4)],
        }

    def _anchors(self, maps: Maps, sizes: jax.Array) -> tuple[list[np.ndarray], list[jax.Array]]:
        s = self.settings
        anchors = level_anchors(maps, s.anchor_scales, s.anchor_ratios)
        return anchors, level_anchors_inside(maps, sizes, s.anchors_per_cell)

    def _propose(
        self,
        objectness: list[jax.Array],
        deltas: list[jax.Array],
        anchors: list[np.ndarray],
        counted: list[jax.Array],
        sizes: jax.Array,
        per_level: int,
    ) -> Proposals:
        limits = ProposalLimits(per_level, self.settings.proposal_nms_threshold, self.settings.proposals)
        return jax.vmap(lambda o, d, c, size: propose(o, d, anchors, c, size, limits))(
            objectness, deltas, counted, sizes
        )
