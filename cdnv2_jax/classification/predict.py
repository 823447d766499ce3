"""Prediction of the classes of images, in files or prepared in memory."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cdnv2_jax.data.decode import MAX_MEGAPIXELS, BrokenImage
from cdnv2_jax.data.read_ahead import Picture, prepared_batches
from cdnv2_jax.errors import NOT_FINITE, UserError
from cdnv2_jax.weights.open import Classifier


@dataclasses.dataclass(frozen=True)
class Likely:
    """A class and its probability.

    Attributes:
      label: index of the class.
      name: name of the class.
      probability: in [0, 1].
    """

    label: int
    name: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image.

    Attributes:
      path: path of the image; None for one that is not a file.
      classes: best first.
    """

    COLUMNS: ClassVar = ("image", "rank", "label", "name", "probability")
    path: Path | None
    classes: Sequence[Likely]

    def to_json(self) -> dict[str, Any]:
        """Return {"image": path, "classes": [{"label", "name", "probability"}, …]}."""
        return {"image": str(self.path), "classes": [dataclasses.asdict(one) for one in self.classes]}

    def to_rows(self) -> list[tuple[object, ...]]:
        """Return the cells of `COLUMNS` for each class; ranks count from 1."""
        return [
            (self.path, rank, one.label, one.name, one.probability) for rank, one in enumerate(self.classes, start=1)
        ]

    def to_text(self) -> list[str]:
        """Return the path, and "  91.27%  tabby" for each class."""
        return [str(self.path), *(f"{one.probability:8.2%}  {one.name}" for one in self.classes)]


def predict(
    classifier: Classifier,
    pictures: Iterable[Picture],
    *,
    top: int = 5,
    batch_size: int = 32,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Iterator[Prediction | BrokenImage]:
    """Yield a prediction for each image, in order, or the error if it cannot be read.

    All batches have the same shape, so that only one program is compiled: `batch_size` images, or all if there are
    fewer. Threads prepare the next batches while one is computed.

    Args:
      classifier: the network and its preprocessing.
      pictures: image files, or images in memory.
      top: classes per prediction.
      batch_size: images per batch.
      max_megapixels: limit of the images' size, in million pixels.

    Raises:
      UserError: as for `classify`.
    """
    rows = 0
    preparation = classifier.described.usage.preparation
    for batch in prepared_batches(pictures, preparation, batch_size=batch_size, max_megapixels=max_megapixels):
        rows = rows or len(batch)
        readable = [image for _, image in batch if not isinstance(image, BrokenImage)]
        found = iter(classify(classifier, readable, top=top, rows=rows))
        for path, image in batch:
            yield image if isinstance(image, BrokenImage) else Prediction(path, next(found))


def classify(
    classifier: Classifier, images: Sequence[np.ndarray], *, top: int = 5, rows: int | None = None
) -> list[list[Likely]]:
    """Return the most probable classes of each image, best first; of equal ones the smaller label is first.

    Args:
      classifier: the network.
      images: prepared as its `described.usage.preparation` does, float32 [size, size, 3] each.
      top: classes per image.
      rows: number of images to compute with, filled up with zeros: each number is compiled once; None for `images`.

    Raises:
      UserError: the classifier does not give one finite logit per class.
    """
    usage = classifier.described.usage
    result = []
    for probabilities in _probabilities(classifier, images, rows or len(images)):
        best = np.argsort(-probabilities, kind="stable")[:top]
        result.append([Likely(int(k), usage.name_of(int(k)), float(probabilities[k])) for k in best])
    return result


def _probabilities(classifier: Classifier, images: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Compute probabilities, float64 [images, classes], in a batch of `rows` images padded with zeros."""
    if not images:
        return np.zeros((0, classifier.described.num_classes))
    batch = np.zeros((rows, *images[0].shape), np.float32)
    batch[: len(images)] = images
    logits = classifier.logits(batch).astype(np.float64)
    if not np.isfinite(logits[: len(images)]).all():
        raise UserError(f"the network {classifier.described.name} {NOT_FINITE}")
    likelihood = np.exp(logits - logits.max(1, keepdims=True))
    return (likelihood / likelihood.sum(1, keepdims=True))[: len(images)]
