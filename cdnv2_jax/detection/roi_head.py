"""The second stage of Faster R-CNN: classes and boxes of the proposals, and its losses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.detection.losses import at_least_float32, softmax_cross_entropy, sum_where
from cdnv2_jax.detection.ops.assignment import IGNORED, assign
from cdnv2_jax.detection.ops.box_coder import encode
from cdnv2_jax.detection.ops.boxes import pairwise_iou
from cdnv2_jax.detection.ops.sampling import sample
from cdnv2_jax.detection.rpn import Proposals
from cdnv2_jax.detection.settings import DetectorSettings
from cdnv2_jax.detection.types import Targets
from cdnv2_jax.layers.initializers import normal, xavier_uniform


class RoIHead(nnx.Module):
    """Two Linears with ReLU, then one to the classes and the background, which is last, and one to a box per class."""

    def __init__(self, inputs: int, hidden: int, num_classes: int, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int, kernel_init: nnx.Initializer) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, kernel_init=kernel_init, dtype=dtype, rngs=rngs)

        self.num_classes = num_classes
        self.fc1 = linear(inputs, hidden, xavier_uniform(inputs, hidden))
        self.fc2 = linear(hidden, hidden, xavier_uniform(hidden, hidden))
        self.classes = linear(hidden, num_classes + 1, normal(0.01))
        self.boxes = linear(hidden, 4 * num_classes, normal(0.001))

    def __call__(self, pooled: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[..., s, s, channels] → (class logits [..., c + 1], deltas [..., c, 4]), float32."""
        x = pooled.reshape(*pooled.shape[:-3], -1)
        x = jax.nn.relu(self.fc2(jax.nn.relu(self.fc1(x))))
        deltas = at_least_float32(self.boxes(x))
        return at_least_float32(self.classes(x)), deltas.reshape(*deltas.shape[:-1], self.num_classes, 4)


class RoISamples(NamedTuple):
    """The proposals that the losses see, s for each image.

    Attributes:
      boxes: [b, s, 4]. valid: bool [b, s]; the others are there for the shape's sake.
      labels: int [b, s]; the number of classes for background.
      wanted: [b, s, 4], the object's box, of background the proposal itself.
    """

    boxes: jax.Array
    valid: jax.Array
    labels: jax.Array
    wanted: jax.Array


def sample_rois(proposals: Proposals, targets: Targets, keys: jax.Array, settings: DetectorSettings) -> RoISamples:
    """Draws `settings.roi_samples` of each image's proposals, with its objects' own boxes before them."""
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
    """{"class_loss", "box_loss"}: softmax cross-entropy, and L1 on the object's class; over all samples of the batch.

    Args:
      logits: [b, s, c + 1]. deltas: [b, s, c, 4].
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
