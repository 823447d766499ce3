"""Exact evaluation of a classifier: every sample once, whatever the batch size."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from cdnv2_jax.data.batches import HostBatch
from cdnv2_jax.data.on_device import Normalisation
from cdnv2_jax.devices import Devices, fetch
from cdnv2_jax.layers.dense_kernels import with_dense_kernels
from cdnv2_jax.layers.lowering import full_precision
from cdnv2_jax.networks.network import Network
from cdnv2_jax.training.experiment import Evaluation

Classified = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of the rows of a batch: logits [b, classes], labels [b], and whether each row is real [b]."""


@dataclasses.dataclass(frozen=True)
class ClassificationEvaluation(Evaluation):
    """Metrics of a classifier over `count` images, and what they were computed from.

    Attributes:
      metrics: "loss", mean cross-entropy in nats without label smoothing; "top1" and "top5", fraction of images whose
        label is the top class or among the top five, in [0, 1].
      logits: float32 [count, classes].
      labels: int32 [count].
      ranks: int [count], number of classes ranked before the label.
      images: int64 [count], positions in the data set; those of unreadable images are missing.
    """

    logits: np.ndarray
    labels: np.ndarray
    ranks: np.ndarray
    images: np.ndarray

    score_name = "top1"

    @property
    def count(self) -> int:
        """Number of images evaluated."""
        return len(self.labels)

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats."""
        return self.metrics["loss"]

    @property
    def top1(self) -> float:
        """Accuracy, in [0, 1]."""
        return self.metrics["top1"]

    @property
    def top5(self) -> float:
        """Top-5 accuracy, in [0, 1]."""
        return self.metrics["top5"]

    @property
    def headline(self) -> str:
        return f"accuracy {self.top1:.2%}, loss {self.loss:.3f}{self.warning}"

    def per_class(self) -> list[tuple[int, float, float]]:
        """Return (images, top-1, top-5) of every class; both accuracies are 0.0 for a class without images."""
        classes = self.logits.shape[1]
        images = np.bincount(self.labels, minlength=classes)
        first, among_five = (np.bincount(self.labels, self.ranks < k, classes) / np.maximum(images, 1) for k in (1, 5))
        return [(int(n), float(one), float(five)) for n, one, five in zip(images, first, among_five, strict=True)]


def evaluate(
    model: Network,
    batches: Iterable[HostBatch],
    normalisation: Normalisation,
    devices: Devices | None = None,
    columns: Sequence[int] | None = None,
) -> ClassificationEvaluation:
    """Run all batches on all devices; every process gets the metrics of the whole data set.

    Args:
      model: network in evaluation mode, the same in every process.
      batches: this process's rows: "image", "label" and "real"; rows that are not real are computed and dropped.
      normalisation: normalisation of the images, computed on the devices.
      devices: devices to run on, None for all; they must divide the batches evenly.
      columns: the network's label for each label of the batches; only their logits compete. None for all of them.
    """
    devices = devices or Devices.all()
    graph, state = nnx.split(with_dense_kernels(model))
    state = devices.replicate(state)

    def classified(rows: HostBatch) -> Classified:
        batch = devices.put_batch({name: rows[name] for name in ("image", "label", "real")})
        return fetch(_classified(graph, normalisation, devices.everywhere, state, batch))

    return _evaluated(map(classified, batches), columns)


def evaluate_program(
    logits_of: Callable[[np.ndarray], np.ndarray],
    batches: Iterable[HostBatch],
    normalisation: Normalisation,
    columns: Sequence[int] | None = None,
) -> ClassificationEvaluation:
    """Run all batches through an exported program, in this process alone; otherwise as `evaluate`.

    Args:
      logits_of: normalised images, float32 [b, size, size, 3] → logits [b, classes].
    """

    def classified(rows: HostBatch) -> Classified:
        return logits_of(np.asarray(normalisation(jnp.asarray(rows["image"])))), rows["label"], rows["real"]

    return _evaluated(map(classified, batches), columns)


def _evaluated(batches: Iterable[Classified], columns: Sequence[int] | None) -> ClassificationEvaluation:
    """Score the real rows of all batches."""
    logits, labels, images, passed = [], [], [], 0
    for batch_logits, batch_labels, real in batches:
        logits.append(np.asarray(batch_logits, np.float32)[real])
        labels.append(batch_labels[real])
        images.append(passed + np.flatnonzero(real))
        passed += len(real)
    together = np.concatenate(logits)
    return score(together if columns is None else together[:, columns], np.concatenate(labels), np.concatenate(images))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _classified(
    graph: nnx.GraphDef,
    normalisation: Normalisation,
    everywhere: NamedSharding,
    state: nnx.State,
    batch: dict[str, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    model = nnx.merge(graph, state)
    with full_precision(model):
        logits = model(normalisation(batch["image"]))
    # Replicated, because every process needs all rows for the metrics.
    return jax.lax.with_sharding_constraint((logits, batch["label"], batch["real"]), everywhere)


def score(logits: np.ndarray, labels: np.ndarray, images: np.ndarray | None = None) -> ClassificationEvaluation:
    """Compute top-1, top-5 and loss of logits [n, classes] for labels [n]; `images` are 0 … n − 1 unless given.

    A label's rank is the number of classes with a larger logit plus the number of earlier classes with an equal one.
    Images whose logits are not all finite count as wrong, also among the top five of five.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    finite = np.isfinite(logits).all(1)
    rank = np.where(finite, (logits > own).sum(1) + ((logits == own) & earlier).sum(1), max(5, logits.shape[1]))
    wide = logits.astype(np.float64)
    largest = wide.max(1, keepdims=True)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        log_sum = np.log(np.exp(wide - largest).sum(1)) + largest[:, 0]
        loss, top1, top5 = (log_sum - own[:, 0]).mean(), (rank < 1).mean(), (rank < 5).mean()
    return ClassificationEvaluation(
        {"loss": float(loss), "top1": float(top1), "top5": float(top5)},
        logits=logits,
        labels=labels,
        ranks=rank,
        images=np.arange(len(labels)) if images is None else images,
        not_finite=int((~finite).sum()),
    )
