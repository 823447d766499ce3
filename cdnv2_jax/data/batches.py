"""Samples → rows of batches: their order, their distribution over hosts, and what a row holds."""

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from cdnv2_jax.data.augment import Augmentation, erase, training_image
from cdnv2_jax.data.decode import BrokenImage
from cdnv2_jax.data.preparation import ImagePreparation, normalise
from cdnv2_jax.data.source import Picture, Sample, Source
from cdnv2_jax.errors import UserError

NOT_BROKEN = -1


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of every batch that one of several hosts reads (its shard).

    Attributes:
      batch_size: of the global batch.
      host: number of this host.
      hosts: how many there are; it divides `batch_size`.
    """

    batch_size: int
    host: int = 0
    hosts: int = 1

    def __post_init__(self):
        if self.batch_size % self.hosts or not 0 <= self.host < self.hosts:
            raise ValueError(f"host {self.host} of {self.hosts} cannot share batches of {self.batch_size}")

    @property
    def rows(self) -> int:
        """Rows of each batch that this host reads."""
        return self.batch_size // self.hosts

    def position(self, row: int) -> int:
        """Position in the stream of all samples of this host's `row`, counted over all its batches.

        A host reads neighbouring rows: the batches of all hosts, concatenated, are the global batch.
        """
        batch, within = divmod(row, self.rows)
        return batch * self.batch_size + self.host * self.rows + within


def shuffled_index(position: int, length: int, seed: int) -> int:
    """The sample at `position` of an endless stream: every `length` positions hold every sample once, reshuffled.

    Batches may span two epochs, so no sample is dropped to make the numbers fit.
    """
    epoch, within = divmod(position, length)
    return int(_shuffled(length, seed, epoch)[within])


@lru_cache(maxsize=4)  # a batch may span two epochs, and readers run ahead
def _shuffled(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


def sample_random(seed: int, position: int) -> np.random.Generator:
    """The random numbers of the sample at `position` of the stream; the same whichever host or worker reads it."""
    return np.random.Generator(np.random.Philox(key=[seed, position]))


@dataclasses.dataclass(frozen=True, eq=False)
class RowMaker(abc.ABC):
    """Makes rows of batches, each by its position in this host's share of the stream; a pure function of it.

    Attributes:
      source: where samples come from.
      share: the part of each batch that this host reads.
    """

    source: Source[Picture]
    share: Share

    @abc.abstractmethod
    def sample_index(self, row: int) -> int:
        """Position in the source of the sample that `row` shows."""

    @abc.abstractmethod
    def __call__(self, row: int) -> dict[str, Any]:
        """The row, by name; "broken" (int64) is the index of an unreadable sample met, else −1."""

    def first_readable(self, indices: Iterable[int], prepare: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        """What `prepare` makes of the first of the samples `indices` that is readable, with "index" and "broken".

        Raises:
          UserError: none is readable.
        """
        tried: list[int] = []
        for index in indices:
            with contextlib.suppress(BrokenImage):
                made = prepare(index)
                return made | {"index": np.int64(index), "broken": np.int64(tried[0] if tried else NOT_BROKEN)}
            tried.append(index)
        raise UserError(f"none of the {len(tried)} training images can be read")


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingRow(RowMaker):
    """Makes the rows of training batches.

    A row holds "image" (uint8 [s, s, 3], or float32, normalised and erased, with `normalise_with`), "label" (int32),
    "index" (int64, of the sample in the source), "broken" (int64, index of an unreadable sample that this one
    replaces, else −1) and, with random erasing left to the device, "erase" (int32 [4]: top, left, height, width).

    Attributes:
      seed: of order and augmentation.
      augmentation: what is done to the images.
      normalise_with: (mean, std) to finish images on the host; None leaves normalising and erasing to the device.
    """

    source: Source[Sample]
    seed: int
    augmentation: Augmentation
    normalise_with: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def sample_index(self, row: int) -> int:
        return shuffled_index(self.share.position(row), len(self.source), self.seed)

    def __call__(self, row: int) -> dict[str, Any]:
        random, wanted = sample_random(self.seed, self.share.position(int(row))), self.sample_index(int(row))
        following = (index % len(self.source) for index in range(wanted, wanted + len(self.source)))
        return self.first_readable(following, lambda index: self._prepared(index, random))

    def _prepared(self, index: int, random: np.random.Generator) -> dict[str, Any]:
        sample = self.source[index]
        image, rectangle = training_image(sample.pixels(), sample.name, random, self.augmentation)
        made: dict[str, Any] = {"label": np.int32(sample.label)}
        if self.normalise_with is not None:
            return made | {"image": erase(normalise(image, *self.normalise_with), rectangle, random)}
        if self.augmentation.erase_probability:
            made["erase"] = np.asarray(rectangle, np.int32)
        return made | {"image": image}


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationRow(RowMaker):
    """Makes the rows of evaluation batches: every sample once, in order, then padding.

    A row holds "image" (uint8 [s, s, 3], to be normalised on the device), "label" (int32), "real" (bool) and "broken"
    (int64, index of an unreadable sample, else −1). Padding and unreadable samples are not real.

    Attributes:
      preparation: what is done to the images.
    """

    source: Source[Sample]
    preparation: ImagePreparation

    def sample_index(self, row: int) -> int:
        return self.share.position(row)

    def __call__(self, row: int) -> dict[str, Any]:
        index = self.sample_index(int(row))
        if index >= len(self.source):
            return self._padding(NOT_BROKEN)
        sample = self.source[index]
        try:
            image = self.preparation.resized(sample.pixels())
        except BrokenImage:
            return self._padding(index)
        real = {"label": np.int32(sample.label), "real": np.bool_(True), "broken": np.int64(NOT_BROKEN)}
        return {"image": image, **real}

    def _padding(self, broken: int) -> dict[str, Any]:
        black = np.zeros((self.preparation.size, self.preparation.size, 3), np.uint8)
        return {"image": black, "label": np.int32(0), "real": np.bool_(False), "broken": np.int64(broken)}
