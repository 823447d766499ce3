"""RetinaNet (Lin et al. 2017): head, losses and detection."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from cdnv2_jax.detectors.detector import Detections, PyramidDetector, Targets, all_finite, with_area
from cdnv2_jax.detectors.losses import focal_loss, head_kernel, sum_where
from cdnv2_jax.detectors.nms import best_detections, top_k_and_next
from cdnv2_jax.detectors.ops.anchors import Maps, level_anchors, level_anchors_inside
from cdnv2_jax.detectors.ops.assignment import IGNORED, assign
from cdnv2_jax.detectors.ops.boxes import at_least_float32, clip_boxes, decode, encode, pairwise_iou
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.layers.valid_region import inside
from cdnv2_jax.networks.network import ModulePath, Network

_PRIOR = 0.01
"""Initial probability of every class, so that the many negatives do not dominate the first steps."""


class RetinaNetHead(nnx.Module):
    """Two branches of 3×3 convolutions with ReLU, for classes and for box deltas, shared by all levels."""

    def __init__(
        self,
        channels: int,
        convs: int,
        anchors_per_cell: int,
        num_classes: int,
        *,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        def conv(outputs: int, bias: float = 0.0) -> nnx.Conv:
            return nnx.Conv(
                channels,
                outputs,
                (3, 3),
                padding=1,
                kernel_init=head_kernel(channels),
                bias_init=nnx.initializers.constant(bias),
                dtype=dtype,
                rngs=rngs,
            )

        self.num_classes = num_classes
        self.class_branch = nnx.List([conv(channels) for _ in range(convs)])
        self.box_branch = nnx.List([conv(channels) for _ in range(convs)])
        self.classes = conv(anchors_per_cell * num_classes, bias=-math.log((1 - _PRIOR) / _PRIOR))
        self.boxes = conv(anchors_per_cell * 4)

    def __call__(self, maps: Maps, masks: Maps) -> tuple[list[jax.Array], list[jax.Array]]:
        """Return (class logits [b, n, c], deltas [b, n, 4]) of every level, float32, n anchors in (y, x, anchor) order.

        `masks` are the images' cells, bool [b, h, w, 1]; the results do not depend on the cells outside.
        """
        logits, deltas = [], []
        for stride, x in maps.items():
            mask = masks[stride]
            classes = self.classes(_branch(self.class_branch, x, mask))
            boxes = self.boxes(_branch(self.box_branch, x, mask))
            logits.append(at_least_float32(classes).reshape(x.shape[0], -1, self.num_classes))
            deltas.append(at_least_float32(boxes).reshape(x.shape[0], -1, 4))
        return logits, deltas


def _branch(convs: nnx.List, x: jax.Array, mask: jax.Array) -> jax.Array:
    x = inside(x, mask)
    for conv in convs:
        x = inside(jax.nn.relu(conv(x)), mask)
    return x


def retinanet_losses(
    logits: jax.Array,
    deltas: jax.Array,
    anchors: ArrayLike,
    counted: jax.Array,
    targets: Targets,
    settings: DetectorSettings,
) -> dict[str, jax.Array]:
    """Return {"class_loss", "box_loss"}: focal and L1 of all anchors not ignored, over Σ images max(positives, 1).

    Args:
      logits: [b, n, c].
      deltas: [b, n, 4].
      anchors: [n, 4], of all levels.
      counted: bool [b, n], whether an anchor counts.
    """
    anchors = jnp.asarray(anchors)
    classes = jnp.arange(logits.shape[-1])

    def of_image(logits, deltas, counted, targets):
        assigned = assign(
            pairwise_iou(targets.boxes, anchors),
            targets.valid,
            low_quality=True,
            candidates=counted,
            **settings.assignment,
        )
        positive = assigned >= 0
        matched = jnp.maximum(assigned, 0)
        is_class = positive[:, None] & (targets.labels[matched][:, None] == classes)
        focal = focal_loss(logits, is_class, alpha=settings.focal_alpha, gamma=settings.focal_gamma)
        wanted = encode(anchors, jnp.where(positive[:, None], targets.boxes[matched], anchors))
        class_loss = sum_where(assigned != IGNORED, focal)
        return class_loss, sum_where(positive, jnp.abs(deltas - wanted)), jnp.maximum(positive.sum(), 1)

    class_loss, box_loss, positives = (each.sum() for each in jax.vmap(of_image)(logits, deltas, counted, targets))
    return {"class_loss": class_loss / positives, "box_loss": box_loss / positives}


class RetinaNet(PyramidDetector):
    """Backbone, P3 to P7, one head on all levels (Lin et al. 2017, as in mmdetection 2.11)."""

    def __init__(
        self, settings: DetectorSettings, backbone: Network, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs
    ):
        super().__init__(settings, backbone, dtype=dtype, rngs=rngs)
        s = settings
        self.head = RetinaNetHead(
            s.fpn_channels, s.head_convs, s.anchors_per_cell, s.num_classes, dtype=dtype, rngs=rngs
        )

    def losses(
        self, images: jax.Array, sizes: jax.Array, targets: Targets, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Return {"class_loss", "box_loss"}; see `PyramidDetector.losses`. Nothing is sampled, so `key` is not used."""
        logits, deltas, anchors, counted = self.outputs(images, sizes)
        return retinanet_losses(
            jnp.concatenate(logits, axis=1),
            jnp.concatenate(deltas, axis=1),
            np.concatenate(anchors),
            jnp.concatenate(counted, axis=1),
            with_area(targets),
            self.settings,
        )

    def detect(self, images: jax.Array, sizes: jax.Array) -> Detections:
        """Detect objects; see `PyramidDetector.detect`.

        On each level, the `candidates_per_level` anchors with the highest class score become candidates. `truncated`
        takes the others into account.
        """
        logits, deltas, anchors, counted = self.outputs(images, sizes)

        def of_image(logits, deltas, counted, size):
            levels = zip(logits, deltas, anchors, counted, strict=True)
            picked = [_candidates(*level, size, self.settings.candidates_per_level) for level in levels]
            scores, boxes, left_out = zip(*picked, strict=True)
            return best_detections(
                jnp.concatenate(scores), jnp.concatenate(boxes), jnp.stack(left_out).max(), self.settings
            )

        found = jax.vmap(of_image)(logits, deltas, counted, sizes)
        return dataclasses.replace(found, finite=found.finite & all_finite(*logits, *deltas))

    def class_columns(self, labels: Sequence[int]) -> dict[ModulePath, list[int]]:
        """See `PyramidDetector.class_columns`; anchors share their boxes among classes."""
        s = self.settings
        return {("head", "classes"): [a * s.num_classes + label for a in range(s.anchors_per_cell) for label in labels]}

    def outputs(self, images: jax.Array, sizes: jax.Array):
        """Return (class logits, deltas, anchors, whether anchors count), of each level, as `detect` selects from.

        Returns:
          logits float32 [b, n, c], deltas [b, n, 4], anchors [n, 4] and bool [b, n]: False on cells beyond an image.
        """
        maps, masks = self.levels(images, sizes)
        s = self.settings
        anchors = level_anchors(maps, s.anchor_scales, s.anchor_ratios)
        return *self.head(maps, masks), anchors, level_anchors_inside(maps, sizes, s.anchors_per_cell)


def _candidates(
    logits: jax.Array, deltas: jax.Array, anchors: ArrayLike, counted: jax.Array, size: jax.Array, most: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (scores [k, c], boxes [k, 4], best score left out) of one level of one image."""
    best, indices, left_out = top_k_and_next(jnp.where(counted, logits.max(-1), -jnp.inf), most)
    scores = jnp.where(best[:, None] > -jnp.inf, jax.nn.sigmoid(logits[indices]), 0)
    boxes = clip_boxes(decode(jnp.asarray(anchors)[indices], deltas[indices]), size)
    return scores, boxes, jax.nn.sigmoid(left_out)
