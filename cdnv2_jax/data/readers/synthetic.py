"""Images made from their index, for benchmarks and smoke runs: no files, any size, any number of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cdnv2_jax.data.source import Sample, Split

IMAGES: dict[Split, int] = {"train": 1280, "val": 256}
CELLS = 4  # a class is known by a pattern of 4×4 colours
DARKEST, BRIGHTEST = 32, 192  # of the pattern; noise adds up to 63, so that nothing need be clipped


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
    """A coarse random pattern for each class, the same in both splits, and noise that differs in every image.

    Image i has class i modulo `num_classes`; the same index always gives the same image.

    Attributes:
      split: which noise.
      image_size: side of the images, uint8 [image_size, image_size, 3].
      num_classes: at least 1.
      count: number of images; None: 1,280 to train on, 256 held out.
    """

    split: Split
    image_size: int
    num_classes: int
    count: int | None = None

    @property
    def class_names(self) -> Sequence[str]:
        return [f"pattern {label}" for label in range(self.num_classes)]

    def __len__(self) -> int:
        return IMAGES[self.split] if self.count is None else self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        label = index % self.num_classes
        pattern = np.random.default_rng(label).integers(DARKEST, BRIGHTEST, (CELLS, CELLS, 3), np.uint8)
        nearest = np.arange(self.image_size) * CELLS // self.image_size
        # Random bytes cost a seventh of random integers below 64.
        noise = np.random.default_rng((self.split == "val", index)).bytes(self.image_size**2 * 3)
        image = np.frombuffer(noise, np.uint8).reshape(self.image_size, self.image_size, 3) >> 2
        image += pattern[nearest].take(nearest, axis=1)
        return Sample(image, label, f"synthetic {self.split} image {index}")
