"""From a config's `data` to batches; the only place that knows which sources there are."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from cdnv2_jax.data.batches import Batch, ShuffledBatches, padded_batches
from cdnv2_jax.data.digits import DIGITS, digits_as_images, split_indices
from cdnv2_jax.data.image_folder import evaluation_batches, find_images
from cdnv2_jax.errors import UserError

SOURCES = ("digits", "image_folder")


def check_source(source: str) -> None:
    """UserError, with the nearest name, unless there is such a source."""
    if source not in SOURCES:
        near = difflib.get_close_matches(source, SOURCES, n=1)
        raise UserError(f"there is no data source {source!r}: {f'did you mean {near[0]!r}?' if near else SOURCES}")


def training_batches(
    source: str, *, image_size: int, batch_size: int, num_classes: int, seed: int, max_shift: int
) -> ShuffledBatches:
    """Shuffled, augmented training batches; UserError when the source cannot be trained on."""
    check_source(source)
    if source != "digits":
        raise UserError(f"data.source {source!r} can be evaluated on, training so far reads 'digits' only")
    images, labels = digits_as_images(image_size)
    check_classes("digits", DIGITS, num_classes)
    train, _ = split_indices(labels)
    return ShuffledBatches(images[train], labels[train], batch_size, seed, max_shift)


def held_out_batches(
    source: str,
    *,
    directory: str,
    image_size: int,
    batch_size: int,
    num_classes: int,
    interpolation: Literal["bilinear", "bicubic"],
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Every held-out image once, in a fixed order: ((images, labels), real)."""
    check_source(source)
    if source == "digits":
        images, labels = digits_as_images(image_size)
        check_classes("digits", DIGITS, num_classes)
        _, test = split_indices(labels)
        return padded_batches(images[test], labels[test], batch_size)
    if not directory:
        raise UserError("data.directory '' is no directory: set it to a folder with a folder of images per class")
    folder = find_images(Path(directory))
    check_classes(directory, len(folder.classes), num_classes)
    return evaluation_batches(folder, image_size, interpolation, batch_size)


def check_classes(source: str, classes: int, num_classes: int) -> None:
    """UserError when the data have more classes than the network has logits."""
    if classes > num_classes:
        raise UserError(f"{source} has {classes} classes, the network tells {num_classes} apart")
