"""Opening a source of images by its name; the only place that lists them."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from cdnv2_jax.data.source import Sample, Source, Split
from cdnv2_jax.data.sources import cifar, image_folder, imagenet_tars, tfds
from cdnv2_jax.data.sources.generated import SyntheticSource, read_digits
from cdnv2_jax.errors import UserError

AnySource = TypeVar("AnySource", bound=Source)


class Reader(NamedTuple, Generic[AnySource]):
    """How files of one kind are read.

    Attributes:
      read: (directory, split) → the source.
      layout: what to put where, for messages.
    """

    read: Callable[[Path, Split], AnySource]
    layout: str


GENERATED = ("digits", "synthetic")
READERS: Mapping[str, Reader[Source[Sample]]] = {
    "image_folder": Reader(image_folder.read_image_folder, image_folder.LAYOUT),
    "imagenet_tars": Reader(imagenet_tars.read_imagenet_tars, imagenet_tars.LAYOUT),
    "cifar10": Reader(partial(cifar.read_cifar, "cifar10"), cifar.LAYOUTS["cifar10"]),
    "cifar100": Reader(partial(cifar.read_cifar, "cifar100"), cifar.LAYOUTS["cifar100"]),
    "tfds": Reader(tfds.read_tfds, tfds.LAYOUT),
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
      image_size: side of digits and synthetic images; all others keep the size of their files.
      num_classes: of the network.
      count: of synthetic images; None: as many as `SyntheticSource` says.

    Raises:
      UserError: no such source, nothing or something damaged in the directory, or another number of classes.
    """
    check_name(name, SOURCES)
    if name == "synthetic":
        return SyntheticSource(split, image_size, num_classes, count)
    source = read_digits(split, image_size) if name == "digits" else open_directory(name, directory, split)
    classes = len(source.class_names)
    if classes != num_classes:
        where = name if name == "digits" else str(directory)
        raise UserError(
            f"{where} has {classes} classes, the network {num_classes}: set config.model.num_classes to {classes}"
        )
    return source


def open_directory(name: str, directory: str | Path, split: Split) -> Source[Sample]:
    """A source of `READERS`, with any number of classes; UserError as `open_source`."""
    return read_directory(READERS[name], directory, split)


def read_directory(reader: Reader[AnySource], directory: str | Path, split: Split) -> AnySource:
    """What the reader finds in a directory; UserError when none is given, or it is unreadable."""
    if not str(directory):
        raise UserError(f"config.data.directory is empty: {reader.layout}")
    try:
        return reader.read(Path(directory), split)
    except OSError as error:
        raise UserError(f"{error.filename or directory} cannot be read: {error.strerror or error}") from error


def check_name(name: str, sources: Sequence[str]) -> None:
    """UserError, with the nearest name, unless `name` is one of the sources."""
    if name not in sources:
        near = difflib.get_close_matches(name, sources, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(sources)}"
        raise UserError(f"there is no data source {name!r}: {hint}")
