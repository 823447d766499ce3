"""What every source of images gives, wherever it keeps them."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

Split = Literal["train", "val"]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
      image: an encoded image file (JPEG, PNG, …), or pixels, uint8 [h, w, 3].
      label: position of its class in the source's `class_names`.
      name: what a message calls it: a path, a member of an archive, "train image 17".
    """

    image: bytes | np.ndarray
    label: int
    name: str


class NamedImage(Protocol):
    """What samples of all kinds have: an image, encoded or as pixels, and a name for messages."""

    @property
    def image(self) -> bytes | np.ndarray: ...
    @property
    def name(self) -> str: ...


class Images(Protocol):
    """Images in a fixed order, each found by its position alone; sent to worker processes by pickling."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> NamedImage: ...


class Source(Protocol):
    """Labelled images in a fixed order, each found by its position alone; sent to worker processes by pickling.

    Attributes:
      class_names: of all classes, in the order of their labels.
    """

    @property
    def class_names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclasses.dataclass(frozen=True)
class PixelSource:
    """A Source of pixels; pickling sends all of them.

    Attributes:
      images: uint8 [n, h, w, 3].
      labels: integers [n], each the position of a name in `class_names`.
      class_names: of all classes.
      kind: what `Sample.name` calls an image, before its number: "cifar10 train image".
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    kind: str

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images[index], int(self.labels[index]), f"{self.kind} {index}")
