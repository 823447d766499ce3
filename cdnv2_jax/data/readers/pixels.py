"""Small images that are held in memory as pixels."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cdnv2_jax.data.source import Sample


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
