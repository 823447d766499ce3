"""What training a classifier minimises."""

import dataclasses

import jax
import jax.numpy as jnp

from cdnv2_jax.networks.family import AnyNetwork
from cdnv2_jax.pruning.prune import total_group_lasso
from cdnv2_jax.training.step import Batch, Metrics


@dataclasses.dataclass(frozen=True)
class Objective:
    """The smoothed cross-entropy, measured as "loss", and the group lasso, which joins the gradient alone.

    Attributes: as the fields of `ClassificationConfig`.
    """

    label_smoothing: float = 0.0
    group_lasso: float = 0.0
    ema_decay: float = 0.0
    accumulate: int = 1

    def __call__(self, model: AnyNetwork, batch: Batch) -> tuple[jax.Array, Metrics]:
        """What to minimise, and {"loss", "accuracy"}, for a batch of {"image", "label", …}."""
        logits = model(batch["image"])
        loss = batch_loss(logits, batch, self.label_smoothing)
        total = loss
        if self.group_lasso:
            total += self.group_lasso * total_group_lasso(model)
        accuracy = (logits.argmax(-1) == batch["label"]).mean()
        return total, {"loss": loss, "accuracy": accuracy}


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Mean over the batch of −Σ q · log softmax, q = (1 − smoothing) on the label + smoothing / classes on all."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    target = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    return -((1 - smoothing) * target + smoothing * log_probabilities.mean(-1)).mean()


def batch_loss(logits: jax.Array, batch: Batch, smoothing: float) -> jax.Array:
    """The smoothed cross-entropy; with mixup that of both labels, by their shares."""
    loss = smoothed_cross_entropy(logits, batch["label"], smoothing)
    if "other_label" not in batch:
        return loss
    share = batch["share"][0]  # the same for all
    return share * loss + (1 - share) * smoothed_cross_entropy(logits, batch["other_label"], smoothing)
