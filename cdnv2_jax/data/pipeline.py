"""Starting the processes that read images."""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from cdnv2_jax.data.augment.training_image import Augmentation, TrainingImage, erase, training_image
from cdnv2_jax.data.decode import BrokenImage, decode
from cdnv2_jax.data.order import Share, sample_random, shuffled_index
from cdnv2_jax.data.preparation import evaluation_image, normalise
from cdnv2_jax.data.source import Images, NamedImage, Sample, Source
from cdnv2_jax.errors import UserError


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Grain's processes started inside never see Ctrl-C or SIGTERM, which shells and clusters send to all of a job.

    The training process decides what these mean, and still needs its batches until then.
    """
    _absl_flags_parsed()
    _start_resource_tracker()  # or it would be started inside, and lift the block when it is
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(worker: int, workers: int) -> None:
    """To be called in a worker: it ends when the training process is gone, even if that was killed on the spot."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _start_resource_tracker() -> None:
    """Starts Python's process that frees shared memory, told to do so without a word.

    When a run ends early there always is some: batches that were read ahead.
    """
    name = "PYTHONWARNINGS"
    before = os.environ.get(name)
    os.environ[name] = ",".join(filter(None, [before, "ignore:resource_tracker:UserWarning"]))
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _absl_flags_parsed() -> None:
    # Grain starts its processes through absl, which insists on flags that only absl's own programs parse.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


HostBatch = dict[str, np.ndarray]
"""One host's rows of a batch, see `TrainingRow` and `EvaluationRow` for what is in it."""

Made = TypeVar("Made")

NOT_BROKEN = -1
READ_THREADS = 4
BATCHES_AHEAD = 2


class Row(Protocol):
    """Makes rows of batches, each by its position in this host's share of the stream."""

    @property
    def share(self) -> Share: ...

    def __call__(self, row: int) -> dict[str, Any]: ...


class ShuffledRow(Row, Protocol):
    """A row of training batches.

    Attributes:
      source: where samples come from.
    """

    @property
    def source(self) -> Images: ...

    def sample_index(self, row: int) -> int:
        """Position in the source of the sample that `row` shows."""
        ...


@dataclasses.dataclass(frozen=True)
class TrainingRow:
    """Makes the rows of training batches; called by position in the host's share of the stream.

    A row holds "image" (uint8 [s, s, 3], or float32, normalised and erased, with `normalise_with`), "label" (int32),
    "index" (int64, of the sample in the source), "broken" (int64, index of an unreadable sample whose place this one
    takes, else −1) and, with random erasing left to the device, "erase" (int32 [4]: top, left, height, width).

    Attributes:
      normalise_with: (mean, std) to finish images on the host; None leaves normalising and erasing to the device.
    """

    source: Source
    augmentation: Augmentation
    share: Share
    seed: int
    normalise_with: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def sample_index(self, row: int) -> int:
        """Position in the source of the sample that `row` shows."""
        return shuffled_index(self.share.position(row), len(self.source), self.seed)

    def __call__(self, row: int) -> dict[str, Any]:
        position, wanted = self.share.position(int(row)), self.sample_index(int(row))
        random = sample_random(self.seed, position)
        after = (index % len(self.source) for index in range(wanted, wanted + len(self.source)))
        index, (sample, (image, rectangle)) = first_readable(after, lambda index: self._prepared(index, random))
        broken = NOT_BROKEN if index == wanted else wanted
        made = {"label": np.int32(sample.label), "index": np.int64(index), "broken": np.int64(broken)}
        if self.normalise_with is not None:
            return made | {"image": erase(normalise(image, *self.normalise_with), rectangle, random)}
        if self.augmentation.erase_probability:
            made["erase"] = np.asarray(rectangle, np.int32)
        return made | {"image": image}

    def _prepared(self, index: int, random: np.random.Generator) -> tuple[Sample, TrainingImage]:
        sample = self.source[index]
        return sample, training_image(sample.image, sample.name, random, self.augmentation)


@dataclasses.dataclass(frozen=True)
class EvaluationRow:
    """Makes the rows of evaluation batches: every sample once, in order, then rows that are not real.

    A row holds "image" (uint8 [s, s, 3]), "label" (int32), "real" (bool) and "broken" (int64, as above; such a row is
    not real).

    Attributes:
      resized: resize and crop the centre with `interpolation`; otherwise images must be `image_size` large already.
    """

    source: Source
    share: Share
    image_size: int
    resized: bool
    interpolation: Literal["bilinear", "bicubic"]

    def __call__(self, row: int) -> dict[str, Any]:
        index = self.share.position(int(row))
        if index >= len(self.source):
            return self._filler(NOT_BROKEN)
        sample = self.source[index]
        try:
            image = self._image(sample)
        except BrokenImage:
            return self._filler(index)
        real = {"label": np.int32(sample.label), "real": np.bool_(True), "broken": np.int64(NOT_BROKEN)}
        return {"image": image, **real}

    def _image(self, sample: Sample) -> np.ndarray:
        pixels = decode(sample.image, sample.name) if isinstance(sample.image, bytes) else sample.image
        if self.resized:
            return evaluation_image(pixels, self.image_size, self.interpolation)
        (height, width), size = pixels.shape[:2], self.image_size
        if (height, width) != (size, size):
            raise UserError(
                f"{sample.name} is {width} × {height} pixels, not {size} × {size}: resize it, or crop with "
                f"'random_resized'"
            )
        return pixels

    def _filler(self, broken: int) -> dict[str, Any]:
        black = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        return {"image": black, "label": np.int32(0), "real": np.bool_(False), "broken": np.int64(broken)}


def first_readable(indices: Iterable[int], prepare: Callable[[int], Made]) -> tuple[int, Made]:
    """The first sample of `indices` that can be read: its index, and what `prepare` made of it.

    Raises:
      UserError: there is none.
    """
    tried = 0
    for index in indices:
        with contextlib.suppress(BrokenImage):
            return index, prepare(index)
        tried += 1
    raise UserError(f"none of the {tried} training images can be read")


@contextlib.contextmanager
def host_batches(row: Row, first: int, last: int, workers: int) -> Iterator[Iterator[HostBatch]]:
    """This host's batches `first` … `last` − 1; the same whatever the number of `workers` (processes; 0: threads)."""
    import grain

    rows = row.share.rows
    batches = grain.MapDataset.range(last * rows).map(row).batch(rows)[first:]
    if workers:
        read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=BATCHES_AHEAD)
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=BATCHES_AHEAD)
        iterator = iter(batches.to_iter_dataset(read).mp_prefetch(options, end_with_parent))
    else:
        read = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=BATCHES_AHEAD)
        iterator = iter(batches.to_iter_dataset(read))
    try:
        with starting_workers() if workers else contextlib.nullcontext():
            ahead = list(itertools.islice(iterator, 1))  # the first batch that is asked for starts the processes
        yield itertools.chain(ahead, iterator)
    finally:
        iterator.close()


class BrokenImages:
    """Counts unreadable images over a run and gives up at the limit.

    Attributes:
      found: names of those met so far, without repetition.
    """

    def __init__(self, source: Images, limit: int):
        self._source, self._limit = source, limit
        self.found: dict[int, str] = {}
        self._told = 0

    def check(self, batch: HostBatch) -> list[str]:
        """Names of broken images met for the first time; UserError, naming the image, once they are too many."""
        new = [int(index) for index in batch["broken"] if index != NOT_BROKEN and int(index) not in self.found]
        for index in dict.fromkeys(new):
            sample = self._source[index]
            self.found[index] = sample.name
            if len(self.found) > self._limit:
                self._give_up(sample)
        return [self.found[index] for index in dict.fromkeys(new)]

    def newly_found(self) -> list[str]:
        """Names of those found since this was last asked."""
        new = list(self.found.values())[self._told :]
        self._told += len(new)
        return new

    def _give_up(self, sample: NamedImage) -> None:
        try:
            decode(sample.image if isinstance(sample.image, bytes) else b"", sample.name)
            reason = f"{sample.name} cannot be read as an image"
        except BrokenImage as error:
            reason = str(error)
        allowed = f"at most {self._limit} may be broken" if self._limit else "none may be"
        raise UserError(f"{reason} ({allowed}: config.data.max_broken_images)")
