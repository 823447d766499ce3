"""`cdnv2_jax.predict` and `cdnv2_jax.preprocess`: from images in files or in memory to classes, or to arrays."""

import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from flax import nnx
from PIL import Image

from cdnv2_jax.bounded_reading import read_bytes
from cdnv2_jax.classification.predict import Prediction, classify
from cdnv2_jax.data.decode import MOST_BYTES, BrokenImage, decode, pixels_of
from cdnv2_jax.data.image_paths import image_files
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.network import Network
from cdnv2_jax.training.workdir import TO_USE, network_of_run
from cdnv2_jax.weights.metadata import usage_of
from cdnv2_jax.weights.open import Classifier, classifier_of, open_classifier

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray
"""Path of an image file or of a folder of images, Pillow image, or array: uint8 [height, width, channels] or, if it is
grey, [height, width]."""


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
    classifier, result = _classifier(model), []
    preparation = classifier.described.usage.preparation
    remaining = enumerate(_each(images))
    rows = 0
    with ThreadPoolExecutor() as threads:
        while batch := list(itertools.islice(remaining, batch_size)):
            rows = rows or len(batch)
            prepared = list(threads.map(lambda numbered: _prepared(preparation, *numbered), batch))
            found = classify(classifier, prepared, top=top, rows=rows)
            result += [Prediction(_path(image), best) for (_, image), best in zip(batch, found, strict=True)]
    return result


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
    with ThreadPoolExecutor() as threads:
        prepared = list(threads.map(lambda numbered: _prepared(preparation, *numbered), enumerate(_each(images))))
    shape = (preparation.size, preparation.size, len(preparation.mean))
    return np.stack(prepared) if prepared else np.zeros((0, *shape), np.float32)


def _classifier(model: Any) -> Classifier:
    if isinstance(model, Network):
        evaluated = nnx.clone(model)
        evaluated.eval()
        return classifier_of(evaluated)
    if isinstance(model, str | os.PathLike):
        return open_classifier(network_of_run(Path(model), TO_USE))
    if not isinstance(model, Classifier):
        raise UserError(f"a {type(model).__name__} is not a classifier: give a network, or the path of one")
    return model


def _each(images: Any) -> Iterator[Any]:
    if isinstance(images, str | os.PathLike | Image.Image) or not isinstance(images, Iterable):
        images = [images]
    elif hasattr(images, "__array__"):
        array = np.asarray(images)
        images = array if array.ndim == 4 else [array]
    for image in images:
        yield from [image] if (path := _path(image)) is None else image_files([path])


def _path(image: Any) -> Path | None:
    return Path(image) if isinstance(image, str | os.PathLike) else None


def _prepared(preparation: ImagePreparation, number: int, image: Any) -> np.ndarray:
    """Return one of several images prepared; UserError, naming it, if it cannot be."""
    name = str(_path(image) or f"image {number}")
    try:
        return preparation(_pixels(image, name))
    except BrokenImage:  # it names the image
        raise
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _pixels(image: Any, name: str) -> np.ndarray:
    """Return an image as uint8 [height, width, channels]."""
    if (path := _path(image)) is not None:
        try:
            encoded = read_bytes(path, MOST_BYTES)
        except ValueError as error:
            raise BrokenImage(name, str(error)) from error
        return decode(encoded, name)
    if isinstance(image, Image.Image):
        return pixels_of(image, name)
    if not hasattr(image, "__array__"):
        raise UserError(f"a {type(image).__name__} is not an image: give a path, a Pillow image or an array")
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not pixels.size:
        raise UserError(
            f"{pixels.dtype} {list(pixels.shape)}: give uint8 [height, width, channels], or uint8 [height, width] if "
            f"it is grey"
        )
    return pixels[..., None] if pixels.ndim == 2 else pixels
