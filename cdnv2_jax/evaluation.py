"""Exact evaluation: every sample once, whatever the batch size."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.data.batches import Batch
from cdnv2_jax.models.condensenet import CondenseNet

Forward = Callable[[jax.typing.ArrayLike], jax.Array]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures over a data set of `count` samples.

    Attributes:
      top1, top5: share of samples whose label is the first, among the first five classes, in [0, 1].
      loss: mean cross-entropy in nats, no label smoothing.
      logits: float32 [count, classes].
      labels: int32 [count].
    """

    count: int
    top1: float
    top5: float
    loss: float
    logits: np.ndarray
    labels: np.ndarray


def compiled_forward(model: CondenseNet) -> Forward:
    """images → logits as a compiled function of the model as it is now; compiled once per structure and shape."""
    graph, state = nnx.split(model)
    state = jax.tree.map(lambda array: array, state)  # variables of its own: the model's may be set anew
    return lambda images: _forward(graph, state, jnp.asarray(images))


@partial(jax.jit, static_argnums=0)
def _forward(graph: nnx.GraphDef, state: nnx.State, images: jax.Array) -> jax.Array:
    return nnx.merge(graph, state)(images)


def evaluate(forward: Forward, batches: Iterable[tuple[Batch, np.ndarray]]) -> Evaluation:
    """Runs all batches; rows that are not real (see `padded_batches`) are computed and left out."""
    logits, labels = [], []
    for (images, batch_labels), real in batches:
        logits.append(np.asarray(forward(images), np.float32)[real])
        labels.append(batch_labels[real])
    return score(np.concatenate(logits), np.concatenate(labels))


def score(logits: np.ndarray, labels: np.ndarray) -> Evaluation:
    """Top-1, top-5 and loss of logits [n, classes] for labels [n].

    A label's rank is the number of classes with a larger logit, and of earlier classes with an equal one.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    # Written so that NaN ranks before every label: comparisons with it are all false.
    rank = (~(logits <= own)).sum(1) + ((logits == own) & earlier).sum(1)
    wide = logits.astype(np.float64)
    largest = wide.max(1, keepdims=True)
    log_sum = np.log(np.exp(wide - largest).sum(1)) + largest[:, 0]
    return Evaluation(
        count=len(labels),
        top1=float((rank < 1).mean()),
        top5=float((rank < 5).mean()),
        loss=float((log_sum - own[:, 0]).mean()),
        logits=logits,
        labels=labels,
    )
