"""Images in memory → batches, each a pure function of the seed and the step."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from cdnv2_jax.errors import UserError

Batch = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ShuffledBatches:
    """Endless training batches: every epoch a new order, what does not fill a batch is left for other epochs.

    Because batch `step` depends on nothing but seed and step, an interrupted run goes on exactly where it stopped.

    Attributes:
      images: float32 [n, h, w, 3]. labels: int32 [n].
      max_shift: each image is moved by up to so many pixels each way, borders filled with its darkest value.
    """

    images: np.ndarray
    labels: np.ndarray
    batch_size: int
    seed: int
    max_shift: int = 0

    def __post_init__(self):
        if self.batch_size > len(self.images):
            raise UserError(f"data.batch_size {self.batch_size} is more than the {len(self.images)} training images")

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the data."""
        return len(self.images) // self.batch_size

    def __getitem__(self, step: int) -> Batch:
        """Images [batch, h, w, 3] and labels [batch] of training step `step`."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
        chosen = order[position * self.batch_size :][: self.batch_size]
        shifts = np.random.default_rng([self.seed, epoch, position + 1]).integers(
            -self.max_shift, self.max_shift, size=(self.batch_size, 2), endpoint=True
        )
        return shift_images(self.images[chosen], shifts), self.labels[chosen]


def shift_images(images: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Moves image i by shifts[i] = (down, right) pixels; what comes in from outside is the batch's smallest value."""
    most = int(np.abs(shifts).max(initial=0))
    if not most:
        return images
    margin = ((0, 0), (most, most), (most, most), (0, 0))
    padded = np.pad(images, margin, constant_values=images.min())
    height, width = images.shape[1:3]
    corners = most - shifts
    return np.stack([image[y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)])


def padded_batches(images: np.ndarray, labels: np.ndarray, batch_size: int) -> Iterator[tuple[Batch, np.ndarray]]:
    """Every image once, in order: ((images, labels), real); the last batch is filled up, `real` marks the rest."""
    for start in range(0, len(images), batch_size):
        batch, batch_labels = images[start : start + batch_size], labels[start : start + batch_size]
        real = np.arange(batch_size) < len(batch)
        filler = batch_size - len(batch)
        batch = np.pad(batch, ((0, filler), (0, 0), (0, 0), (0, 0)))
        yield (batch, np.pad(batch_labels, (0, filler))), real
