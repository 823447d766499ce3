"""Prediction of the classes of image files."""

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from cdnv2_jax.bounded_reading import read_bytes
from cdnv2_jax.data.decode import EXTENSIONS, MAX_MEGAPIXELS, MOST_BYTES, BrokenImage, decode
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.data.sources.class_folders import is_hidden
from cdnv2_jax.errors import NOT_FINITE, UserError, shorten
from cdnv2_jax.weights.open import Classifier


def image_files(paths: Iterable[Path], skipped: Counter[str] | None = None) -> Iterator[Path]:
    """Yield files as given, whatever their names, and all images in the given folders and their subfolders.

    Within a folder, files are sorted by name; hidden files and folders are ignored. Links are followed, but no folder
    is searched twice. A link without a target counts as an image, to be reported when it is read.

    Args:
      paths: files and folders.
      skipped: is increased by the files in folders that are no images, by the ending of their names.

    Raises:
      UserError: a folder has no images, or cannot be read.
    """
    skipped = Counter() if skipped is None else skipped
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        others: Counter[str] = Counter()
        found = list(_below(path, others))
        if not found:
            only = f", only {counts(others)}" if others else ""
            raise UserError(f"{path} holds no images ({', '.join(EXTENSIONS)}){only}")
        skipped.update(others)
        yield from found


def counts(kinds: Counter[str]) -> str:
    """Return "12 .heic, 1 .txt", the most frequent first."""
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return shorten([f"{count:,} {kind}" for kind, count in ordered])


def _below(folder: Path, others: Counter[str]) -> Iterator[Path]:
    searched = set()
    for directory, folders, files in os.walk(folder, onerror=_complain, followlinks=True):
        here = os.path.realpath(directory)
        if here in searched:
            folders.clear()
            continue
        searched.add(here)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(name for name in files if not name.startswith(".")):
            path = Path(directory, name)
            if name.lower().endswith(EXTENSIONS) and (os.path.isfile(path) or not os.path.exists(path)):
                yield path
            else:
                others[path.suffix.lower() or "without an ending"] += 1


def _complain(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename} cannot be read: {error.strerror or error}") from error


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
      path: path of the image.
      classes: best first.
    """

    path: Path
    classes: Sequence[Likely]

    def to_json(self) -> dict[str, Any]:
        """Return {"image": path, "classes": [{"label", "name", "probability"}, …]}."""
        return {"image": str(self.path), "classes": [dataclasses.asdict(one) for one in self.classes]}


def predict(
    classifier: Classifier,
    paths: Iterable[Path],
    *,
    top: int = 5,
    batch_size: int = 32,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Iterator[Prediction | BrokenImage]:
    """Yield a prediction for each image, in order, or the error if it cannot be read.

    All batches have the same shape, so that only one program is compiled: `batch_size` images, or all if there are
    fewer. Images are read in threads, one batch at a time.

    Args:
      classifier: the network and its preprocessing.
      paths: paths of the image files.
      top: classes per prediction.
      batch_size: images per batch.
      max_megapixels: limit of the images' size, in million pixels.

    Raises:
      UserError: the classifier does not give one finite logit per class.
    """
    preparation = classifier.described.usage.preparation
    remaining = iter(paths)
    rows = 0
    with ThreadPoolExecutor() as threads:
        while batch := list(itertools.islice(remaining, batch_size)):
            rows = rows or len(batch)
            images = list(threads.map(lambda path: _read(path, preparation, max_megapixels), batch))
            readable = [image for image in images if isinstance(image, np.ndarray)]
            found = iter(_probabilities(classifier, readable, rows))
            for path, image in zip(batch, images, strict=True):
                if isinstance(image, BrokenImage):
                    yield image
                else:
                    yield Prediction(path, _likeliest(classifier, next(found), top))


def _read(path: Path, preparation: ImagePreparation, max_megapixels: float) -> np.ndarray | BrokenImage:
    """Return the preprocessed image, or the error if it cannot be read."""
    try:
        encoded = read_bytes(path, MOST_BYTES)
    except ValueError as error:
        return BrokenImage(str(path), str(error))
    try:
        return preparation(decode(encoded, str(path), max_megapixels=max_megapixels))
    except BrokenImage as error:
        return error


def _probabilities(classifier: Classifier, images: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Compute probabilities, float64 [images, classes], in a batch of `rows` images padded with zeros."""
    if not images:
        return np.zeros((0, classifier.described.num_classes))
    batch = np.zeros((rows, *images[0].shape), np.float32)
    batch[: len(images)] = images
    logits = np.asarray(classifier.forward(batch), np.float64)
    if logits.shape != (rows, classifier.described.num_classes):
        raise UserError(
            f"the network returns logits of shape {list(logits.shape)} for {rows} images, but its metadata says it "
            f"has {classifier.described.num_classes} classes: export it again"
        )
    if not np.isfinite(logits[: len(images)]).all():
        raise UserError(f"the network {classifier.described.name} {NOT_FINITE}")
    likelihood = np.exp(logits - logits.max(1, keepdims=True))
    return (likelihood / likelihood.sum(1, keepdims=True))[: len(images)]


def _likeliest(classifier: Classifier, probabilities: np.ndarray, top: int) -> list[Likely]:
    """Return the `top` most probable classes; ties keep the order of the labels."""
    best = np.argsort(-probabilities, kind="stable")[:top]
    usage = classifier.described.usage
    return [Likely(int(label), usage.name_of(int(label)), float(probabilities[label])) for label in best]
