"""Sources that need no files of the user: the digits and synthetic patterns."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cdnv2_jax.data.source import PixelSource, Sample, Source, Split, fingerprint
from cdnv2_jax.errors import UserError

FILE = Path(__file__).with_name("digits.npz")
"""levels uint8 [1797, 8, 8] from 0 (paper) to 16 (ink), labels uint8 [1797] and held_out bool [1797], 360 of them.

The test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998, UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49, CC BY 4.0), in the order of scikit-learn's `load_digits`. Held out is what its
`train_test_split` with random_state=0 chose of every class.
"""
SIDE = 8
DIGITS = 10  # classes


def digits_as_images(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all digits in their published order: float32 [1797, side, side, 3] in [−1, 1], and labels int32 [1797].

    Each pixel becomes a square of side / 8 pixels, each grey value three equal channels.

    Raises:
      UserError: `side` is not a multiple of 8.
    """
    if side % SIDE:
        raise UserError(f"digits are {SIDE}×{SIDE}: image_size must be a multiple of {SIDE}, got {side}")
    with np.load(FILE) as digits:
        levels, labels = digits["levels"], digits["labels"]
    grey = (levels.astype(np.float32) / 16 - 0.5) / 0.5
    large = grey.repeat(side // SIDE, axis=1).repeat(side // SIDE, axis=2)
    return np.repeat(large[..., None], 3, axis=-1), labels.astype(np.int32)


def split_indices() -> tuple[np.ndarray, np.ndarray]:
    """Return the fixed split: indices of 1,437 training and 360 test images, stratified by class."""
    with np.load(FILE) as digits:
        held_out = digits["held_out"]
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def read_digits(split: Split, image_size: int) -> PixelSource:
    """Return 1,437 (train) or 360 (val) digits, uint8 [image_size, image_size, 3].

    Level l of 0 … 16 becomes round(l · 255 / 16).

    Raises:
      UserError: `image_size` is not a multiple of 8.
    """
    images, labels = digits_as_images(image_size)
    chosen = split_indices()[0 if split == "train" else 1]
    pixels = np.rint((images[chosen] + 1) / 2 * 255).astype(np.uint8)
    return PixelSource(pixels, labels[chosen], [str(digit) for digit in range(DIGITS)], f"digits {split} image")


IMAGES: dict[Split, int] = {"train": 1280, "val": 256}
CELLS = 4  # the pattern of a class has 4×4 colours
DARKEST, BRIGHTEST = 32, 192  # of the pattern; noise adds up to 63, so nothing needs clipping


@dataclasses.dataclass(frozen=True)
class SyntheticSource(Source[Sample]):
    """A coarse random pattern for each class, the same in both splits, plus noise that differs between images.

    Image i has class i modulo `num_classes`; the same index always gives the same image.

    Attributes:
      split: the split, which selects the noise.
      image_size: side of the images, uint8 [image_size, image_size, 3].
      num_classes: number of classes, at least 1.
      count: number of images; None for 1,280 (train) or 256 (val).
    """

    split: Split
    image_size: int
    num_classes: int
    count: int | None = None
    class_names: Sequence[str] = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "class_names", [f"pattern {label}" for label in range(self.num_classes)])

    def __len__(self) -> int:
        return IMAGES[self.split] if self.count is None else self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        label = index % self.num_classes
        pattern = np.random.default_rng(label).integers(DARKEST, BRIGHTEST, (CELLS, CELLS, 3), np.uint8)
        nearest = np.arange(self.image_size) * CELLS // self.image_size
        # Random bytes take a seventh of the time of random integers below 64.
        noise = np.random.default_rng((self.split == "val", index)).bytes(self.image_size**2 * 3)
        image = np.frombuffer(noise, np.uint8).reshape(self.image_size, self.image_size, 3) >> 2
        image += pattern[nearest].take(nearest, axis=1)
        return Sample(image, label, f"synthetic {self.split} image {index}")

    def fingerprint(self) -> str:
        """Return a hash of the parameters."""
        return fingerprint("synthetic", self.split, np.array([self.image_size, self.num_classes, len(self)]))
