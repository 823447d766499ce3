"""RetinaNet: one stage, a class and a box for every anchor."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from cdnv2_jax.detection.candidates import best_detections, top_k_and_next
from cdnv2_jax.detection.levels import level_anchors, level_anchors_inside
from cdnv2_jax.detection.ops.box_coder import decode
from cdnv2_jax.detection.ops.boxes import clip_boxes
from cdnv2_jax.detection.pyramid_detector import PyramidDetector
from cdnv2_jax.detection.retinanet_head import RetinaNetHead, retinanet_losses
from cdnv2_jax.detection.settings import DetectorSettings
from cdnv2_jax.detection.types import Detections, Targets, with_area


class RetinaNet(PyramidDetector):
    """Backbone, P3 to P7, one head on all levels (Lin et al. 2017, as mmdetection 2.11)."""

    def __init__(self, settings: DetectorSettings, backbone: Any, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs):
        super().__init__(settings, backbone, dtype=dtype, rngs=rngs)
        s = settings
        self.head = RetinaNetHead(
            s.fpn_channels, s.head_convs, s.anchors_per_cell, s.num_classes, dtype=dtype, rngs=rngs
        )

    def losses(
        self, images: jax.Array, sizes: jax.Array, targets: Targets, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """{"class_loss", "box_loss"}, see `PyramidDetector.losses`; nothing is sampled, so the key is not used."""
        logits, deltas, anchors, counted = self._outputs(images, sizes)
        return retinanet_losses(
            jnp.concatenate(logits, axis=1),
            jnp.concatenate(deltas, axis=1),
            np.concatenate(anchors),
            jnp.concatenate(counted, axis=1),
            with_area(targets),
            self.settings,
        )

    def detect(self, images: jax.Array, sizes: jax.Array) -> Detections:
        """See `PyramidDetector.detect`.

        Of each level the `candidates_per_level` anchors with the best class become candidates. `truncated` takes
        those left out into account.
        """
        logits, deltas, anchors, counted = self._outputs(images, sizes)

        def of_image(logits, deltas, counted, size):
            levels = zip(logits, deltas, anchors, counted, strict=True)
            picked = [_candidates(*level, size, self.settings.candidates_per_level) for level in levels]
            scores, boxes, left_out = zip(*picked, strict=True)
            return best_detections(
                jnp.concatenate(scores), jnp.concatenate(boxes), jnp.stack(left_out).max(), self.settings
            )

        return jax.vmap(of_image)(logits, deltas, counted, sizes)

    def _outputs(self, images: jax.Array, sizes: jax.Array):
        """(class logits, deltas, anchors, anchors that count) of all levels."""
        maps, masks = self.levels(images, sizes)
        s = self.settings
        anchors = level_anchors(maps, s.anchor_scales, s.anchor_ratios)
        return *self.head(maps, masks), anchors, level_anchors_inside(maps, sizes, s.anchors_per_cell)


def _candidates(
    logits: jax.Array, deltas: jax.Array, anchors: ArrayLike, counted: jax.Array, size: jax.Array, most: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(scores [k, c], boxes [k, 4], the best score of what is left out) of one level of one image."""
    best, indices, left_out = top_k_and_next(jnp.where(counted, logits.max(-1), -jnp.inf), most)
    scores = jnp.where(best[:, None] > -jnp.inf, jax.nn.sigmoid(logits[indices]), 0)
    boxes = clip_boxes(decode(jnp.asarray(anchors)[indices], deltas[indices]), size)
    return scores, boxes, jax.nn.sigmoid(left_out)
