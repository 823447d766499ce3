"""Reading batches ahead, in threads or in worker processes, and keeping count of unreadable images."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

import numpy as np

from cdnv2_jax.data.batches import NOT_BROKEN, RowMaker
from cdnv2_jax.data.decode import BrokenImage
from cdnv2_jax.data.source import Picture, Source
from cdnv2_jax.errors import UserError

HostBatch = dict[str, np.ndarray]
"""One host's rows of a batch, stacked; each `RowMaker` says what is in it."""

READ_THREADS = 4
BATCHES_AHEAD = 2


@contextlib.contextmanager
def host_batches(rows: RowMaker, first: int, last: int, workers: int) -> Iterator[Iterator[HostBatch]]:
    """This host's batches `first` … `last` − 1; the same for any number of `workers` (processes; 0: threads)."""
    import grain

    size = rows.share.rows
    batches = grain.MapDataset.range(last * size).map(rows).batch(size)[first:]
    if workers:
        read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=BATCHES_AHEAD)
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=BATCHES_AHEAD)
        iterator = iter(batches.to_iter_dataset(read).mp_prefetch(options, _end_with_parent))
    else:
        read = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=BATCHES_AHEAD)
        iterator = iter(batches.to_iter_dataset(read))
    try:
        with _starting_workers() if workers else contextlib.nullcontext():
            ahead = list(itertools.islice(iterator, 1))  # the first batch that is asked for starts the processes
        yield itertools.chain(ahead, iterator)
    finally:
        iterator.close()


class BrokenImages:
    """Counts unreadable images over a run and gives up at the limit.

    Attributes:
      found: names of those met so far, by their index in the source.
    """

    def __init__(self, source: Source[Picture], limit: int):
        self._source, self._limit = source, limit
        self.found: dict[int, str] = {}
        self._told = 0

    def check(self, batch: HostBatch) -> list[str]:
        """Names of broken images met for the first time; UserError, naming the image, once they are too many."""
        new = [int(index) for index in batch["broken"] if index != NOT_BROKEN and int(index) not in self.found]
        for index in dict.fromkeys(new):
            picture = self._source[index]
            self.found[index] = picture.name
            if len(self.found) > self._limit:
                self._give_up(picture)
        return [self.found[index] for index in dict.fromkeys(new)]

    def newly_found(self) -> list[str]:
        """Names of those found since the last call."""
        new = list(self.found.values())[self._told :]
        self._told += len(new)
        return new

    def _give_up(self, picture: Picture) -> None:
        try:
            picture.pixels()
            reason = f"{picture.name} cannot be read as an image"
        except BrokenImage as error:
            reason = str(error)
        allowed = f"at most {self._limit} may be broken" if self._limit else "none may be"
        raise UserError(f"{reason} ({allowed}: config.data.max_broken_images)")


@contextlib.contextmanager
def _starting_workers() -> Iterator[None]:
    """Grain's processes started inside never see Ctrl-C or SIGTERM, which shells and clusters send to a whole job.

    The training process decides what these mean, and still needs its batches until then.
    """
    _mark_absl_flags_as_parsed()
    _start_resource_tracker()  # otherwise started inside, where it would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(worker: int, workers: int) -> None:
    """Called in a worker: ends it when the training process is gone, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _start_resource_tracker() -> None:
    """Starts Python's process that frees shared memory, with its warnings off.

    When a run ends early there always is some to free: batches that were read ahead.
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


def _mark_absl_flags_as_parsed() -> None:
    # Grain starts its processes through absl, which insists on flags that only absl's own programs parse.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
