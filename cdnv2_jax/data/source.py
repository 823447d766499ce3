"""The interface of image sources, the samples that they return, and their fingerprints."""

import abc
import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Generic, Literal, TypeVar

import numpy as np

from cdnv2_jax.data.decode import MAX_MEGAPIXELS, decode

Split = Literal["train", "val"]


class Picture:
    """An image and its name, the base class of samples.

    Attributes:
      image: an encoded image file (JPEG, PNG, …), or pixels, uint8 [h, w, 3].
      name: name in messages: a path, a member of an archive, "train image 17".
    """

    image: bytes | np.ndarray
    name: str

    def pixels(self, upright: bool = True, *, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
        """Return uint8 [h, w, 3], not to be written to; raise BrokenImage if the image cannot be decoded.

        Args:
          upright: turn an encoded image as its EXIF orientation says; see `decode`.
          max_megapixels: limit of an encoded image's size, in million pixels.
        """
        if not isinstance(self.image, bytes):
            return self.image
        return decode(self.image, self.name, upright=upright, max_megapixels=max_megapixels)


@dataclasses.dataclass(frozen=True)
class Sample(Picture):
    """One labelled image.

    Attributes:
      image: an encoded image file (JPEG, PNG, …), or pixels, uint8 [h, w, 3].
      label: index of its class in the source's `class_names`.
      name: name in messages: a path, a member of an archive, "train image 17".
      full_size: (height, width) of the image that this is a shrunk copy of; None if it is whole.
    """

    image: bytes | np.ndarray
    label: int
    name: str
    full_size: tuple[int, int] | None = None


AnyPicture = TypeVar("AnyPicture", bound=Picture, covariant=True)


class Source(abc.ABC, Generic[AnyPicture]):
    """Samples in a fixed order with random access; pickled to be sent to worker processes.

    Attributes:
      class_names: names of all classes, in the order of their labels.
      remarks: what was skipped or decided while opening it, one phrase each: "2 empty files skipped: a.jpg, b.jpg".
      in_bucket: whether its samples are in a bucket, where each takes long to arrive and many can be read at once.
    """

    class_names: Sequence[str]
    remarks: Sequence[str] = ()
    in_bucket: bool = False

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> AnyPicture: ...

    def fingerprint(self) -> str:
        """Return a hash of the names, sizes and labels of all samples, wherever they are stored; reads no image.

        By default of their number and class names alone: override it where more is known.
        """
        return fingerprint(self.class_names, str(len(self)))


@dataclasses.dataclass(frozen=True)
class PixelSource(Source[Sample]):
    """A source of pixels in memory; pickling copies all of them.

    Attributes:
      images: uint8 [n, h, w, 3].
      labels: integers [n], each an index in `class_names`.
      class_names: names of all classes.
      kind: prefix of `Sample.name`, before the image's number: "cifar10 train image".
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    kind: str

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images[index], int(self.labels[index]), f"{self.kind} {index}")

    def fingerprint(self) -> str:
        """Return a hash of all pixels, labels and class names."""
        return fingerprint(self.class_names, self.labels, self.images)


def fingerprint(*parts: str | bytes | np.ndarray | Iterable[str]) -> str:
    """Return the SHA-256 of texts, bytes, arrays and lists of texts, in hexadecimal; no two sequences look alike."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            kind, content = f"{part.dtype.newbyteorder('<').str}{part.shape}", np.ascontiguousarray(part)
            content = content.astype(content.dtype.newbyteorder("<"), copy=False).data
        elif isinstance(part, bytes):
            kind, content = "bytes", part
        elif isinstance(part, str):
            kind, content = "text", part.encode("utf-8", "surrogateescape")
        else:
            kind, content = "list", "".join(f"{len(text)}:{text}" for text in part).encode("utf-8", "surrogateescape")
        total.update(f"{kind} {len(content) if isinstance(content, bytes) else content.nbytes}\n".encode())
        total.update(content)
    return total.hexdigest()
