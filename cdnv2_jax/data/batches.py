"""Batches of samples: order, sharding over hosts, contents of a row, and unreadable images."""

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from cdnv2_jax.data.augment import Augmentation, erase, training_image
from cdnv2_jax.data.decode import MAX_MEGAPIXELS, BrokenImage
from cdnv2_jax.data.preparation import ImagePreparation, normalise
from cdnv2_jax.data.source import Picture, Sample, Source
from cdnv2_jax.data.storage import Ahead
from cdnv2_jax.data.watchdog import now_reading
from cdnv2_jax.errors import UserError

NOT_BROKEN = -1


@dataclasses.dataclass(frozen=True)
class Share:
    """The shard of every batch that one of several hosts reads.

    Attributes:
      batch_size: size of the global batch.
      host: index of this host.
      hosts: number of hosts; it divides `batch_size`.
    """

    batch_size: int
    host: int = 0
    hosts: int = 1

    def __post_init__(self):
        if self.batch_size % self.hosts or not 0 <= self.host < self.hosts:
            raise ValueError(f"host {self.host} of {self.hosts} cannot share batches of {self.batch_size}")

    @property
    def rows(self) -> int:
        """Number of rows of each batch that this host reads."""
        return self.batch_size // self.hosts

    def position(self, row: int) -> int:
        """Return the position in the stream of all samples of this host's `row`, counted over all its batches.

        A host reads consecutive rows: the batches of all hosts, concatenated, are the global batch.
        """
        batch, within = divmod(row, self.rows)
        return batch * self.batch_size + self.host * self.rows + within


def shuffled_index(position: int, length: int, seed: int) -> int:
    """Return the sample at `position` of an endless stream of epochs, each with all `length` samples, reshuffled.

    Batches may span two epochs, so no samples are dropped at the end of an epoch.
    """
    epoch, within = divmod(position, length)
    return int(_shuffled(length, seed, epoch)[within])


@lru_cache(maxsize=4)  # a batch may span two epochs, and readers run ahead
def _shuffled(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


def sample_random(seed: int, position: int) -> np.random.Generator:
    """Return the random generator of the sample at `position` of the stream, the same on every host and worker."""
    return np.random.Generator(np.random.Philox(key=[seed, position]))


@dataclasses.dataclass(frozen=True, eq=False)
class RowMaker(abc.ABC):
    """Function that makes a row of a batch from its position in this host's shard of the stream, deterministically.

    Attributes:
      source: source of the samples.
      share: the shard of each batch that this host reads.
      max_megapixels: limit of the images' size, in million pixels; larger ones count as unreadable.
      ahead: samples that are read before their row is made; rows read all samples through it.
    """

    source: Source[Picture]
    share: Share
    max_megapixels: float = dataclasses.field(default=MAX_MEGAPIXELS, kw_only=True)
    ahead: Ahead = dataclasses.field(default_factory=Ahead, init=False)

    @abc.abstractmethod
    def sample_index(self, row: int) -> int:
        """Return the index in the source of the sample in `row`."""

    @abc.abstractmethod
    def __call__(self, row: int) -> dict[str, Any]:
        """Return a row as a dict; "broken" (int64) is the index of an unreadable sample that was met, else −1.

        It calls `now_reading` before it reads a sample, so that one that hangs is named.
        """

    def first_readable(self, indices: Iterable[int], prepare: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of `prepare` for the first readable sample of `indices`, with "index" and "broken".

        Raises:
          UserError: none of the samples is readable.
        """
        tried: list[int] = []
        for index in indices:
            now_reading(index)
            with contextlib.suppress(BrokenImage):
                made = prepare(index)
                return made | {"index": np.int64(index), "broken": np.int64(tried[0] if tried else NOT_BROKEN)}
            tried.append(index)
        raise UserError(f"none of the {len(tried)} training images can be read")


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingRow(RowMaker):
    """Function that makes the rows of training batches.

    A row holds "image" (uint8 [s, s, 3], or float32, normalised and erased, with `normalise_with`), "label" (int32),
    "index" (int64, of the sample in the source), "broken" (int64, index of an unreadable sample that this one
    replaces, else −1) and, with random erasing left to the device, "erase" (int32 [4]: top, left, height, width).

    Attributes:
      seed: seed of order and augmentation.
      augmentation: augmentation of the images.
      normalise_with: (mean, std) to finish images on the host; None leaves normalising and erasing to the device.
      upright: turn images as their EXIF orientation says.
    """

    source: Source[Sample]
    seed: int
    augmentation: Augmentation
    normalise_with: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    upright: bool = True

    def sample_index(self, row: int) -> int:
        return shuffled_index(self.share.position(row), len(self.source), self.seed)

    def __call__(self, row: int) -> dict[str, Any]:
        random, wanted = sample_random(self.seed, self.share.position(int(row))), self.sample_index(int(row))
        following = (index % len(self.source) for index in range(wanted, wanted + len(self.source)))
        return self.first_readable(following, lambda index: self._prepared(index, random))

    def _prepared(self, index: int, random: np.random.Generator) -> dict[str, Any]:
        sample = self.ahead.read(self.source, index)
        pixels = sample.pixels(self.upright, max_megapixels=self.max_megapixels)
        image, rectangle = training_image(pixels, sample.name, random, self.augmentation, sample.full_size)
        made: dict[str, Any] = {"label": np.int32(sample.label)}
        if self.normalise_with is not None:
            return made | {"image": erase(normalise(image, *self.normalise_with), rectangle, random)}
        if self.augmentation.erase_probability:
            made["erase"] = np.asarray(rectangle, np.int32)
        return made | {"image": image}


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationRow(RowMaker):
    """Function that makes the rows of evaluation batches: every sample once, in order, then padding.

    A row holds "image" (uint8 [s, s, 3], to be normalised on the device), "label" (int32), "real" (bool) and "broken"
    (int64, index of an unreadable sample, else −1). Padding and unreadable samples are not real.

    Attributes:
      preparation: preprocessing of the images.
      upright: turn images as their EXIF orientation says.
    """

    source: Source[Sample]
    preparation: ImagePreparation
    upright: bool = True

    def sample_index(self, row: int) -> int:
        return self.share.position(row)

    def __call__(self, row: int) -> dict[str, Any]:
        index = self.sample_index(int(row))
        if index >= len(self.source):
            return self._padding(NOT_BROKEN)
        now_reading(index)
        sample = self.ahead.read(self.source, index)
        try:
            image = self.preparation.resized(sample.pixels(self.upright, max_megapixels=self.max_megapixels))
        except BrokenImage:
            return self._padding(index)
        real = {"label": np.int32(sample.label), "real": np.bool_(True), "broken": np.int64(NOT_BROKEN)}
        return {"image": image, **real}

    def _padding(self, broken: int) -> dict[str, Any]:
        black = np.zeros((self.preparation.size, self.preparation.size, 3), np.uint8)
        return {"image": black, "label": np.int32(0), "real": np.bool_(False), "broken": np.int64(broken)}


HostBatch = dict[str, np.ndarray]
"""One host's rows of a batch, stacked; see each `RowMaker` for the contents."""


class BrokenImages:
    """Record of a run's unreadable images, which ends the run if they exceed the limit.

    Attributes:
      found: names of the unreadable images so far, by their index in the source.
    """

    def __init__(self, source: Source[Picture], limit: int, max_megapixels: float = MAX_MEGAPIXELS):
        self._source, self._limit, self._max_megapixels = source, limit, max_megapixels
        self.found: dict[int, str] = {}
        self._told = 0

    def check(self, batch: HostBatch) -> list[str]:
        """Return the names of unreadable images met for the first time; UserError, naming one, above the limit."""
        new = [int(index) for index in batch["broken"] if index != NOT_BROKEN and int(index) not in self.found]
        for index in dict.fromkeys(new):
            picture = self._source[index]
            self.found[index] = picture.name
            if len(self.found) > self._limit:
                self._give_up(picture)
        return [self.found[index] for index in dict.fromkeys(new)]

    def newly_found(self) -> list[str]:
        """Return the names found since the last call."""
        new = list(self.found.values())[self._told :]
        self._told += len(new)
        return new

    def _give_up(self, picture: Picture) -> None:
        try:
            picture.pixels(max_megapixels=self._max_megapixels)
            reason = f"{picture.name} cannot be read as an image"
        except BrokenImage as error:
            reason = str(error)
        allowed = f"at most {self._limit} may be broken" if self._limit else "none may be broken"
        raise UserError(f"{reason} ({allowed}: config.data.max_broken_images)")
