"""From the name of a source to its images; the only place that knows which sources there are."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from cdnv2_jax.data.source import Sample, Source, Split
from cdnv2_jax.data.sources import cifar, image_folder, imagenet_tars, tfds
from cdnv2_jax.data.sources.cifar import read_cifar
from cdnv2_jax.data.sources.generated import SyntheticSource, read_digits
from cdnv2_jax.errors import UserError

GENERATED = ("digits", "synthetic")
LAYOUTS: Mapping[str, str] = {
    "image_folder": image_folder.LAYOUT,
    "imagenet_tars": imagenet_tars.LAYOUT,
    "cifar10": cifar.layout("cifar10"),
    "cifar100": cifar.layout("cifar100"),
    "tfds": tfds.LAYOUT,
}
READERS: Mapping[str, Callable[[Path, Split], Source[Sample]]] = {
    "image_folder": image_folder.read_image_folder,
    "imagenet_tars": imagenet_tars.read_imagenet_tars,
    "cifar10": lambda directory, split: read_cifar("cifar10", directory, split),
    "cifar100": lambda directory, split: read_cifar("cifar100", directory, split),
    "tfds": tfds.read_tfds,
}
SOURCES = (*GENERATED, *READERS)


def open_source(
    name: str, *, directory: str | Path, split: Split, image_size: int, num_classes: int, count: int | None = None
) -> Source[Sample]:
    """The images of a source.

    Args:
      name: one of `SOURCES`.
      directory: where its files are; digits and synthetic images have none.
      split: "train" or, held out, "val".
      image_size: side of digits and synthetic images; all others come in the size they have.
      num_classes: what the network tells apart.
      count: of synthetic images; None: as many as `SyntheticSource` says.

    Raises:
      UserError: no such source, nothing or something damaged in the directory, or another number of classes.
    """
    check_source(name)
    if name == "synthetic":
        return SyntheticSource(split, image_size, num_classes, count)
    source = read_digits(split, image_size) if name == "digits" else open_directory(name, directory, split)
    classes = len(source.class_names)
    if classes != num_classes:
        where = name if name == "digits" else str(directory)
        raise UserError(
            f"{where} has {classes} classes, the network tells {num_classes} apart: "
            f"set config.model.num_classes to {classes}"
        )
    return source


def open_directory(name: str, directory: str | Path, split: Split) -> Source[Sample]:
    """A source of `READERS`, whatever classes it has; UserError as `open_source`."""
    if not str(directory):
        raise UserError(f"config.data.directory is empty: {LAYOUTS[name]}")
    try:
        return READERS[name](Path(directory), split)
    except OSError as error:
        raise UserError(f"{error.filename or directory} cannot be read: {error.strerror or error}") from error


def check_source(name: str) -> None:
    """UserError, with the nearest name, unless there is such a source."""
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(SOURCES)}"
        raise UserError(f"there is no data source {name!r}: {hint}")
