"""`cdnv2_jax.predict`, `detect` and `preprocess`: from images in files or in memory to classes, boxes or arrays."""

import os
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from flax import nnx
from PIL import Image

from cdnv2_jax.classification.predict import Prediction
from cdnv2_jax.classification.predict import predict as predictions
from cdnv2_jax.data.decode import MAX_MEGAPIXELS, BrokenImage
from cdnv2_jax.data.image_paths import image_files
from cdnv2_jax.data.read_ahead import Picture, path_of, prepared_batches
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.detection.predict import DetectedImage, predict_boxes
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.network import Network
from cdnv2_jax.paths import as_path
from cdnv2_jax.training.workdir import TO_USE, network_of_run
from cdnv2_jax.weights.metadata import usage_of
from cdnv2_jax.weights.open import Classifier, DetectorProgram, classifier_of, open_predictor

T = TypeVar("T")


def predict(
    model: Network | Classifier | str | os.PathLike[str],
    images: Picture | Iterable[Picture],
    *,
    top: int = 5,
    batch_size: int = 32,
) -> list[Prediction]:
    """Return the most probable classes of images, prepared as the network's evaluation prepares them.

    Args:
      model: a network, whose mode does not matter; a path to anything that `main.py predict` opens: a checkpoint, a
        run, a PyTorch file, safetensors, ONNX or StableHLO; or what `open_classifier` made of one, to open it once for
        many calls.
      images: one image or several: paths, Pillow images, uint8 arrays [height, width, channels] or [height, width]. An
        array [n, height, width, channels] is n images, a folder all images in it, sorted as by `main.py predict`. EXIF
        orientations are followed.
      top: number of classes per image.
      batch_size: number of images to compute at once.

    Returns:
      A list with one `Prediction` per image, in their order, also for a single image. Its `classes` are best first;
      each has `label`, `name` and `probability`. Its `path` is None for an image in memory.

    Raises:
      UserError: an image cannot be read (it is named) or has the wrong shape or dtype; the model cannot be opened, is a
        detector, has no known preprocessing, or does not give one finite logit per class.
    """
    if min(top, batch_size) < 1:
        raise UserError(f"top and batch_size must be 1 or more, got {top} and {batch_size}")
    return _unbroken(predictions(_classifier(model), _each(images), top=top, batch_size=batch_size))


def detect(
    model: DetectorProgram | str | os.PathLike[str],
    images: Picture | Iterable[Picture],
    *,
    threshold: float = 0.5,
    batch_size: int = 4,
) -> list[DetectedImage]:
    """Return the objects in images, prepared as the detector's evaluation prepares them.

    Args:
      model: a path to anything that `main.py predict` opens: a checkpoint, a run, ONNX or StableHLO; or what
        `open_predictor` made of one, to open it once for many calls.
      images: as for `predict`.
      threshold: least score, at least that of the detector.
      batch_size: number of images to compute at once.

    Returns:
      A list with one `DetectedImage` per image, in their order. Its `objects` are best first; each has `box` (x1, y1,
      x2, y2 in pixels of the image), `score`, `label`, `name` and `category_id`.

    Raises:
      UserError: as for `predict`, for a classifier instead of a detector.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be 1 or more, got {batch_size}")
    program = _opened(model) if isinstance(model, str | os.PathLike) else model
    if not isinstance(program, DetectorProgram):
        raise UserError(f"{model} is not a detector: give one, or use cdnv2_jax.predict for a classifier")
    return _unbroken(predict_boxes(program, _each(images), threshold=threshold, batch_size=batch_size))


def preprocess(
    model: Network | Classifier | Usage | str | os.PathLike[str], images: Picture | Iterable[Picture]
) -> np.ndarray:
    """Prepare images as the network's evaluation does: float32 [n, size, size, channels], normalised.

    Args:
      model: as for `predict`, or a `Usage`.
      images: as for `predict`.

    Raises:
      UserError: as for `predict`.
    """
    if isinstance(model, Network):
        usage = usage_of(model)
    else:
        usage = model if isinstance(model, Usage) else _classifier(model).described.usage
    preparation = usage.preparation
    batches = prepared_batches(_each(images), preparation, batch_size=READ_AT_ONCE, max_megapixels=MAX_MEGAPIXELS)
    prepared = _unbroken(image for batch in batches for _, image in batch)
    shape = (preparation.size, preparation.size, len(preparation.mean))
    return np.stack(prepared) if prepared else np.zeros((0, *shape), np.float32)


READ_AT_ONCE = 32  # images that `preprocess` reads ahead


def _classifier(model: Any) -> Classifier:
    if isinstance(model, Network):
        evaluated = nnx.clone(model)
        evaluated.eval()
        return classifier_of(evaluated)
    classifier = _opened(model) if isinstance(model, str | os.PathLike) else model
    if isinstance(classifier, DetectorProgram):
        raise UserError(f"{model} holds a detector, not a classifier: use cdnv2_jax.detect")
    if not isinstance(classifier, Classifier):
        raise UserError(f"a {type(model).__name__} is not a classifier: give a network, or the path of one")
    return classifier


def _opened(path: str | os.PathLike[str]) -> Classifier | DetectorProgram:
    return open_predictor(network_of_run(as_path(path), TO_USE))


def _each(images: Any) -> Iterator[Picture]:
    """Yield the images one by one, those of folders included."""
    if isinstance(images, str | os.PathLike | Image.Image) or not isinstance(images, Iterable):
        images = [images]
    elif hasattr(images, "__array__"):
        array = np.asarray(images)
        images = array if array.ndim == 4 else [array]
    for image in images:
        yield from [image] if (path := path_of(image)) is None else image_files([path])


def _unbroken(results: Iterable[T | BrokenImage]) -> list[T]:
    """Return all results; raise the first error among them."""
    whole = []
    for result in results:
        if isinstance(result, BrokenImage):
            raise result
        whole.append(result)
    return whole
