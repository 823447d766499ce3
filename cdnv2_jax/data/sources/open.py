"""Open a source of images by name; the only place that lists them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from cdnv2_jax.data.source import Sample, Source, Split
from cdnv2_jax.data.sources import cifar, huggingface, idx, image_folder, imagenet_tars, tfds, webdataset
from cdnv2_jax.data.sources.generated import SyntheticSource, read_digits
from cdnv2_jax.errors import UserError, suggestion
from cdnv2_jax.paths import as_path, is_remote

AnySource = TypeVar("AnySource", bound=Source)


class Reader(NamedTuple, Generic[AnySource]):
    """Reader of one kind of files.

    Attributes:
      read: (directory, split) → the source.
      layout: where to put which files, for messages.
      divides: whether `read` also takes `held_out_fraction`, for a data set without a split of its own.
    """

    read: Callable[..., AnySource]
    layout: str
    divides: bool = False


GENERATED = ("digits", "synthetic")
READERS: Mapping[str, Reader[Source[Sample]]] = {
    "image_folder": Reader(image_folder.read_image_folder, image_folder.LAYOUT, divides=True),
    "imagenet_tars": Reader(imagenet_tars.read_imagenet_tars, imagenet_tars.LAYOUT),
    "cifar10": Reader(partial(cifar.read_cifar, "cifar10"), cifar.LAYOUTS["cifar10"]),
    "cifar100": Reader(partial(cifar.read_cifar, "cifar100"), cifar.LAYOUTS["cifar100"]),
    **{name: Reader(partial(idx.read_idx_images, name), layout) for name, layout in idx.LAYOUTS.items()},
    "huggingface": Reader(huggingface.read_huggingface, huggingface.LAYOUT, divides=True),
    "tfds": Reader(tfds.read_tfds, tfds.LAYOUT),
    "webdataset": Reader(webdataset.read_webdataset, webdataset.LAYOUT, divides=True),
}
SOURCES = (*GENERATED, *READERS)


def open_source(
    name: str,
    *,
    directory: str | Path,
    split: Split,
    image_size: int,
    num_classes: int,
    count: int | None = None,
    held_out_fraction: float = 0.0,
) -> Source[Sample]:
    """Open a source of images.

    Args:
      name: one of `SOURCES`.
      directory: directory of its files, on a disk or in a bucket (gs://, s3://); not used for digits and synthetic
        images.
      split: "train" or, held out, "val".
      image_size: side of digits and synthetic images; all others keep the size of their files.
      num_classes: number of classes of synthetic images; all others have their own.
      count: number of synthetic images; None for the default of `SyntheticSource`.
      held_out_fraction: share of every class to hold out of a directory without a split of its own.

    Raises:
      UserError: the source is unknown, or its files are missing or damaged.
    """
    check_name(name, SOURCES)
    if name == "synthetic":
        return SyntheticSource(split, image_size, num_classes, count)
    if name == "digits":
        return read_digits(split, image_size)
    return open_directory(name, directory, split, held_out_fraction)


def open_directory(name: str, directory: str | Path, split: Split, held_out_fraction: float = 0.0) -> Source[Sample]:
    """Open a source of `READERS` with any number of classes; raise UserError as `open_source` does."""
    return read_directory(READERS[name], directory, split, held_out_fraction)


def read_directory(
    reader: Reader[AnySource], directory: str | Path, split: Split, held_out_fraction: float = 0.0
) -> AnySource:
    """Open the source in a directory; raise UserError if no directory is given or it is unreadable."""
    if not str(directory):
        raise UserError(f"config.data.directory is empty: {reader.layout}")
    try:
        place = as_path(directory)
        if is_remote(place) and not place.is_dir():
            raise UserError(f"{place}: no objects have names that begin so: check bucket and path, or {reader.layout}")
        options = {"held_out_fraction": held_out_fraction} if reader.divides else {}
        return reader.read(place, split, **options)
    except OSError as error:
        raise UserError(f"{error.filename or directory} cannot be read: {error.strerror or error}") from error


def check_name(name: str, sources: Sequence[str]) -> None:
    """Raise UserError, with the nearest name, unless `name` is one of `sources`."""
    if name not in sources:
        raise UserError(f"there is no data source {name!r}: {suggestion(name, sources, 'choose one of')}")
