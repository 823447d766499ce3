"""RetinaNet's head (Lin et al. 2017) and its losses."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from cdnv2_jax.detection.initializers import head_kernel
from cdnv2_jax.detection.levels import Maps
from cdnv2_jax.detection.losses import at_least_float32, focal_loss, sum_where
from cdnv2_jax.detection.ops.assignment import IGNORED, assign
from cdnv2_jax.detection.ops.box_coder import encode
from cdnv2_jax.detection.ops.boxes import pairwise_iou
from cdnv2_jax.detection.settings import DetectorSettings
from cdnv2_jax.detection.types import Targets
from cdnv2_jax.layers.valid_region import inside

_PRIOR = 0.01
"""Probability of every class at the start, so that the many negatives do not swamp the first steps."""


class RetinaNetHead(nnx.Module):
    """Two branches of 3×3 convolutions with ReLU, to classes and to box deltas; the same weights on all levels."""

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
        """(class logits [b, n, c], deltas [b, n, 4]) of every level, float32, n anchors in (y, x, anchor) order.

        `masks` are the images' cells, bool [b, h, w, 1]; nothing depends on the cells outside.
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
    """{"class_loss", "box_loss"}: focal and L1, of all anchors that are not ignored, over Σ images max(positives, 1).

    Args:
      logits: [b, n, c]. deltas: [b, n, 4]. anchors: [n, 4], of all levels. counted: bool [b, n], anchors that count.
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
