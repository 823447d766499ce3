"""Exact evaluation of a classifier: every sample once, whatever the batch size."""

import dataclasses
from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache, partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.data import evaluation_row, normalisation_of, source_of
from cdnv2_jax.data.on_device import Normalisation
from cdnv2_jax.data.pipeline import BrokenImages, HostBatch, host_batches
from cdnv2_jax.devices import Devices, fetch
from cdnv2_jax.networks.family import AnyNetwork

Forward = Callable[[jax.typing.ArrayLike], jax.Array]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures over a data set of `count` samples.

    Attributes:
      top1, top5: share of samples whose label is the first, among the first five classes, in [0, 1].
      loss: mean cross-entropy in nats, no label smoothing.
      logits: float32 [count, classes].
      labels: int32 [count].
      ranks: int [count], how many classes come before the label.
      images: int64 [count], the samples' positions in the data set, which lacks those that cannot be read.
    """

    count: int
    top1: float
    top5: float
    loss: float
    logits: np.ndarray
    labels: np.ndarray
    ranks: np.ndarray
    images: np.ndarray

    score_name = "top1"

    @property
    def score(self) -> float:
        """By which networks are compared."""
        return self.top1

    @property
    def figures(self) -> dict[str, float]:
        """For the records of a run."""
        return {"loss": self.loss, "top1": self.top1, "top5": self.top5}

    @property
    def headline(self) -> str:
        """The same in a few words."""
        return f"accuracy {self.top1:.2%}, loss {self.loss:.3f}"

    def per_class(self) -> list[tuple[int, float, float]]:
        """(images, top-1, top-5) of every class; 0.0 for both where there are no images."""
        classes = self.logits.shape[1]
        images = np.bincount(self.labels, minlength=classes)
        first, among_five = (np.bincount(self.labels, self.ranks < k, classes) / np.maximum(images, 1) for k in (1, 5))
        return [(int(n), float(one), float(five)) for n, one, five in zip(images, first, among_five, strict=True)]


def compiled_forward(model: AnyNetwork) -> Forward:
    """images → logits as a compiled function of the model as it is now; compiled once per structure and shape."""
    graph, state = nnx.split(model)
    arrays, structure = jax.tree.flatten(state)
    forward = _forward(graph, structure)
    return lambda images: forward(arrays, jnp.asarray(images))


@lru_cache(maxsize=16)
def _forward(graph: nnx.GraphDef, structure: Hashable) -> Callable[..., jax.Array]:
    """The function that networks of one structure share. Its arguments are flat: for a single image, hashing and
    flattening a network at every call would take as long as computing it."""
    return jax.jit(lambda arrays, images: nnx.merge(graph, jax.tree.unflatten(cast(Any, structure), arrays))(images))


def evaluate(
    model: AnyNetwork, batches: Iterable[HostBatch], normalisation: Normalisation, devices: Devices | None = None
) -> Evaluation:
    """Runs all batches on all devices; every process gets the figures of the whole data set.

    Args:
      model: in evaluation mode; the same on every process.
      batches: this process's rows: "image", "label" and "real"; rows that are not real are computed and left out.
      normalisation: of the images, on the device.
      devices: None for all there are; batches must split evenly over them.
    """
    devices = devices or Devices.all()
    graph, state = nnx.split(model)
    state = devices.replicate(state)
    logits, labels, images, passed = [], [], [], 0
    for rows in batches:
        batch = devices.put_batch({name: rows[name] for name in ("image", "label", "real")})
        batch_logits, batch_labels, real = fetch(_classified(graph, normalisation, devices.everywhere, state, batch))
        logits.append(np.asarray(batch_logits, np.float32)[real])
        labels.append(batch_labels[real])
        images.append(passed + np.flatnonzero(real))
        passed += len(real)
    return score(np.concatenate(logits), np.concatenate(labels), np.concatenate(images))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _classified(
    graph: nnx.GraphDef,
    normalisation: Normalisation,
    everywhere: NamedSharding,
    state: nnx.State,
    batch: dict[str, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    logits = nnx.merge(graph, state)(normalisation(batch["image"]))
    # All come back whole: every process needs the others' rows for the figures.
    return jax.lax.with_sharding_constraint((logits, batch["label"], batch["real"]), everywhere)


def score(logits: np.ndarray, labels: np.ndarray, images: np.ndarray | None = None) -> Evaluation:
    """Top-1, top-5 and loss of logits [n, classes] for labels [n]; `images` are 0 … n − 1 unless given.

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
        ranks=rank,
        images=np.arange(len(labels)) if images is None else images,
    )


class HeldOut:
    """What a network is evaluated on, every image once.

    Attributes:
      source: the images. broken: those of them that cannot be read; they are left out, as many as the config allows.
    """

    def __init__(self, config: ClassificationConfig, devices: Devices):
        self._config, self._devices = config, devices
        self.source = source_of(config, "val")
        self._row = evaluation_row(config, self.source, devices)
        self.broken = BrokenImages(self.source, config.data.max_broken_images)

    def evaluate(self, model: AnyNetwork) -> Evaluation:
        """Figures of a network in evaluation mode, the same on every process.

        Raises:
          UserError: more images than `config.data.max_broken_images` cannot be read.
        """
        data = self._config.data
        count = -(-len(self.source) // self._row.share.batch_size)
        with host_batches(self._row, 0, count, data.workers) as batches:
            checked = (self._checked(next(batches)) for _ in range(count))
            return evaluate(model, checked, normalisation_of(data), self._devices)

    def example_images(self) -> np.ndarray:
        """This process's part of the first batch, normalised: float32 [b, size, size, 3]."""
        with host_batches(self._row, 0, 1, 0) as batches:
            images = next(batches)["image"]
        return np.asarray(normalisation_of(self._config.data)(jax.numpy.asarray(images)))

    def _checked(self, batch: HostBatch) -> HostBatch:
        self.broken.check(batch)
        return batch
