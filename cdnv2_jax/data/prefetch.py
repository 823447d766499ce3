"""Batches made ahead of time, in threads or processes that are watched."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

from cdnv2_jax.data.batches import HostBatch, RowMaker
from cdnv2_jax.data.storage import AT_ONCE
from cdnv2_jax.data.watchdog import PATIENCE, Board, Patience, Task, Watch, board, sample_name, watch_thread
from cdnv2_jax.errors import RunFailure

BATCHES_AHEAD = 2  # of each worker process
READ_THREADS = max(2, min(4, os.cpu_count() or 2))  # a batch each; more than there are cores would only wait


@contextlib.contextmanager
def host_batches(
    rows: RowMaker, first: int, last: int, workers: int, patience: Patience = PATIENCE
) -> Iterator[Iterator[HostBatch]]:
    """Iterate over this host's batches `first` … `last` − 1; the same for any `workers` (processes; 0: threads).

    Iterating raises a RunFailure when a thread or process hangs, is stopped, dies or runs out of memory. Leaving the
    context ends the processes, and takes a few seconds at most.
    """
    import grain

    size, readers = rows.share.rows, workers or READ_THREADS
    with board(readers, shared=workers > 0) as notes:
        watched = WatchedRow(rows, first, notes)
        batches = grain.MapDataset.range(last * size).map(watched).batch(size)[first:]
        watch = Watch(rows.source, notes, patience)
        tasks = _in_processes(batches, workers, watch) if workers else _in_threads(batches, watch)
        with tasks as opened:
            yield (watch.wait(task, batch % readers) for batch, task in zip(range(len(batches)), opened, strict=False))


@dataclasses.dataclass(frozen=True, eq=False)
class WatchedRow:
    """Function that makes a row like `rows`, and notes on a board which sample is read.

    Attributes:
      rows: maker of the rows.
      first: first batch; readers take turns from there on.
      board: where to note it.
    """

    rows: RowMaker
    first: int
    board: Board

    def __call__(self, row: int) -> dict[str, Any]:
        if self.board.stopped:
            raise RunFailure("no more batches are needed")  # nobody waits for this one
        batch, within = divmod(int(row), self.rows.share.rows)
        reader = (batch - self.first) % self.board.readers
        watch_thread(self.board, reader)
        if self.rows.source.in_bucket:
            soon = range(int(row), min(int(row) + AT_ONCE, (batch + 1) * self.rows.share.rows))
            self.rows.ahead.start(self.rows.source, map(self.rows.sample_index, soon))
        try:
            made = self.rows(row)
        except MemoryError as error:
            sample, _, _ = self.board.read(reader)
            raise RunFailure(
                f"no memory is left to prepare {sample_name(self.rows.source, sample)}: use fewer "
                f"config.data.workers or smaller batches, then repeat the command"
            ) from error
        if within == self.rows.share.rows - 1:
            self.board.note(reader, None)
        return made


@contextlib.contextmanager
def _in_threads(batches: Any, watch: Watch) -> Iterator[Iterator[Task[HostBatch]]]:
    """Yield tasks that make the batches, in order, some of them started ahead. Threads that hang are left behind."""
    started = deque[Task[HostBatch]](maxlen=READ_THREADS)

    def tasks() -> Iterator[Task[HostBatch]]:
        ahead = deque[Task[HostBatch]]()
        for batch in range(len(batches)):
            started.append(Task(partial(batches.__getitem__, batch)))
            ahead.append(started[-1])
            if len(ahead) == READ_THREADS:
                yield ahead.popleft()
        yield from ahead

    try:
        yield tasks()
    finally:
        watch.board.stop()
        for task in started:
            task.join(watch.patience.leave)


@contextlib.contextmanager
def _in_processes(batches: Any, workers: int, watch: Watch) -> Iterator[Iterator[Task[HostBatch]]]:
    """Yield tasks that take the batches, in order, from Grain's processes."""
    import grain

    _mark_absl_flags_as_parsed()
    read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=BATCHES_AHEAD)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=BATCHES_AHEAD)
    iterator = iter(batches.to_iter_dataset(read).mp_prefetch(options, _end_with_parent))

    def task() -> Task[HostBatch]:
        with _signals_blocked():  # the first task starts the processes
            return Task(partial(next, iterator))

    try:
        yield iter(task, None)
    except RunFailure:
        watch.kill()  # closing would wait for those that hang
        raise
    finally:
        watch.board.stop()
        closing = Task(iterator.close)
        try:
            closing.join(watch.patience.leave)
        finally:
            watch.kill()
            closing.join(watch.patience.leave)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM in threads and processes started inside; shells and clusters send them to a whole job.

    The training process handles these signals, and needs batches until it stops.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(worker: int, workers: int) -> None:
    """End this worker when the training process has ended, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _mark_absl_flags_as_parsed() -> None:
    # Grain starts its processes through absl, which requires parsed flags; only absl's own programs parse them.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
