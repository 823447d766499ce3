"""Faster R-CNN: proposals first, then a class and a box for each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.detection.candidates import best_detections
from cdnv2_jax.detection.levels import Maps, level_anchors, level_anchors_inside
from cdnv2_jax.detection.ops.box_coder import decode
from cdnv2_jax.detection.ops.boxes import clip_boxes
from cdnv2_jax.detection.pyramid_detector import PyramidDetector
from cdnv2_jax.detection.roi_head import RoIHead, roi_losses, sample_rois
from cdnv2_jax.detection.roi_pooling import pool_boxes
from cdnv2_jax.detection.rpn import ProposalLimits, Proposals, RPNHead, propose, rpn_losses
from cdnv2_jax.detection.settings import DetectorSettings
from cdnv2_jax.detection.types import Detections, Targets, with_area


class FasterRCNN(PyramidDetector):
    """Backbone, P2 to P6, region proposals on all levels, RoI head on P2 to P5 (Ren et al. 2015, Lin et al. 2017)."""

    def __init__(self, settings: DetectorSettings, backbone: Any, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs):
        super().__init__(settings, backbone, dtype=dtype, rngs=rngs)
        s = settings
        self.rpn = RPNHead(s.fpn_channels, s.anchors_per_cell, dtype=dtype, rngs=rngs)
        self.roi_head = RoIHead(s.roi_size**2 * s.fpn_channels, s.hidden, s.num_classes, dtype=dtype, rngs=rngs)

    def losses(self, images: jax.Array, sizes: jax.Array, targets: Targets, key: jax.Array) -> dict[str, jax.Array]:
        """{"rpn_class_loss", "rpn_box_loss", "class_loss", "box_loss"}, see `PyramidDetector.losses`.

        Proposals are constants to the second stage: its gradient reaches the pyramid, not the RPN.
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
        """See `PyramidDetector.detect`.

        `truncated` does not know of boxes that the limits on proposals have left out: they have no class score.
        """
        maps, masks = self.levels(images, sizes)
        anchors, counted = self._anchors(maps, sizes)
        proposals = self._propose(*self.rpn(maps, masks), anchors, counted, sizes, self.settings.proposals_per_level)
        logits, deltas = self.roi_head(pool_boxes(maps, masks, proposals.boxes, self.settings))

        def of_image(logits, deltas, proposals, size):
            scores = jnp.where(proposals.valid[:, None], jax.nn.softmax(logits)[:, :-1], 0)
            boxes = decode(proposals.boxes[:, None], deltas, self.settings.roi_deviations)
            boxes = clip_boxes(boxes, size)
            return best_detections(scores, boxes, jnp.zeros((), scores.dtype), self.settings)

        return jax.vmap(of_image)(logits, deltas, proposals, sizes)

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
