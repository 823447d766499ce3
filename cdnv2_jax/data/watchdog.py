"""Notice readers of input that hang, are stopped or die, and say which image they were reading."""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import re
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Generic, TypeVar

from cdnv2_jax.data.source import Picture, Source
from cdnv2_jax.errors import RunFailure

Result = TypeVar("Result")

LATER = "then repeat the command"
ADVICE = {
    "SIGKILL": f"as the kernel does when memory runs out: use fewer config.data.workers, {LATER}",
    "SIGBUS": f"as when /dev/shm is full: enlarge it (docker run --shm-size=8g) or use config.data.workers=0, {LATER}",
}
CRASHED = f"its decoder crashed: remove the image or save it again, {LATER}"


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long to wait for input, in seconds. Time in which the whole run is suspended does not count.

    Attributes:
      sample: for a reader that reads one sample, or stacks a batch.
      start: for a worker process to start.
      poll: between two looks.
      leave: for the readers to end when no more batches are needed, before they are killed or left behind.
    """

    sample: float = 40
    start: float = 300
    poll: float = 0.5
    leave: float = 5


PATIENCE = Patience()


class Board:
    """What each reader does at the moment, noted by the reader, in memory that is shared with worker processes.

    Attributes:
      readers: number of readers, threads or processes.
      shared: whether they are processes.
    """

    NOTE = struct.Struct("qqq")  # index of the sample that is read, plus 1 (0: none); number of the note; process

    def __init__(self, readers: int, memory: SharedMemory | None):
        self.readers, self._memory, self.shared = readers, memory, memory is not None
        self._notes: Any = bytearray(self.size(readers)) if memory is None else memory.buf
        self._changes = itertools.count(1)
        self._process = os.getpid()
        self._stop = self.size(readers) - 1

    def __reduce__(self):
        return Board, (self.readers, self._memory)

    @classmethod
    def size(cls, readers: int) -> int:
        """Return the number of bytes that a board needs; the last one says whether to stop."""
        return readers * cls.NOTE.size + 1

    def read(self, reader: int) -> tuple[int | None, int, int]:
        """Return the index of the sample a reader reads, if any, the number of this note (0: none), its process."""
        sample, note, process = self.NOTE.unpack_from(self._notes, reader * self.NOTE.size)
        return sample - 1 if sample else None, note, process

    def note(self, reader: int, sample: int | None) -> None:
        """Note the sample that a reader reads from now on."""
        number = 0 if sample is None else sample + 1
        self.NOTE.pack_into(self._notes, reader * self.NOTE.size, number, next(self._changes), self._process)

    @property
    def stopped(self) -> bool:
        """Whether the readers are to end."""
        return bool(self._notes[self._stop])

    def stop(self) -> None:
        """Ask the readers to end before their next row."""
        self._notes[self._stop] = 1


@contextlib.contextmanager
def board(readers: int, *, shared: bool) -> Iterator[Board]:
    """Make a board for threads or, if `shared`, for processes."""
    if not shared:
        yield Board(readers, None)
        return
    _start_resource_tracker()
    memory = SharedMemory(create=True, size=Board.size(readers))
    try:
        yield Board(readers, memory)
    finally:
        with contextlib.suppress(FileNotFoundError):
            memory.unlink()


def _start_resource_tracker() -> None:
    """Start Python's process that frees shared memory, with its warnings off.

    A run that ends early always leaves some to free: the prefetched batches.
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


_here = threading.local()


def watch_thread(board: Board, reader: int) -> None:
    """Let what `now_reading` says in this thread be noted as what a reader does."""
    _here.board, _here.reader = board, reader


def now_reading(sample: int) -> None:
    """Note the index of the sample that this thread reads next, if it is watched; row makers call this."""
    board: Board | None = getattr(_here, "board", None)
    if board is not None:
        board.note(_here.reader, sample)


class Task(threading.Thread, Generic[Result]):
    """A call in a thread that does not keep the process alive when it hangs."""

    def __init__(self, call: Callable[[], Result]):
        super().__init__(daemon=True)
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error

    def take(self) -> Result:
        """Return or raise what the call did, once it has ended; the task forgets it."""
        if self._error is not None:
            raise self._error
        result, self._result = self._result, None
        return result


class Watch:
    """Waits for the readers of a board; a context in which worker processes are started, and killed at its end.

    Attributes:
      board: what the readers do.
      patience: how long to wait.
    """

    def __init__(self, source: Source[Picture], board: Board, patience: Patience):
        self.board, self.patience, self._source = board, patience, source
        self._others = set(multiprocessing.active_children())
        self._workers: dict[int, BaseProcess] = {}

    def wait(self, task: Task[Result], reader: int) -> Result:
        """Return the result of a task for which a reader works.

        Raises:
          RunFailure: the reader hangs or is stopped, or a worker process has died.
        """
        idle, before = 0.0, self.board.read(reader)
        while task.is_alive():
            task.join(self.patience.poll)
            self._look_for_workers()
            if task.is_alive():
                now = self.board.read(reader)
                # Looks are counted, not the time: it also passes while the whole run is suspended.
                idle, before = idle + self.patience.poll if now == before else 0.0, now
                self._check_workers(reader, idle)
                self._check_starting(reader)
                self._check_progress(reader, idle)
        try:
            return task.take()
        except RuntimeError as error:
            self._check_workers(reader, 0)
            died = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
            if died is None:
                raise
            # Grain saw a worker die before it was seen here: one that has only just started.
            raise RunFailure(f"an input worker {ending(int(died[1]), ' while it started')}") from error

    def kill(self) -> None:
        """Kill the worker processes, also stopped ones; they have nothing to lose."""
        self._look_for_workers()
        for worker in self._workers.values():
            worker.kill()

    def _look_for_workers(self) -> None:
        for child in multiprocessing.active_children():
            if child not in self._others and child.pid and child.name.startswith("grain"):
                self._workers[child.pid] = child

    def _check_workers(self, reader: int, idle: float) -> None:
        """Raise a RunFailure for a dead worker; one that ended without an error is only missed by those who wait."""
        for process, worker in self._workers.items():
            missed = self.board.read(reader)[2] == process and idle >= min(5, self.patience.sample)
            if worker.exitcode or (worker.exitcode == 0 and missed):
                notes = [self.board.read(other) for other in range(self.board.readers)]
                samples = [note[0] for note in notes if note[2] == process and note[0] is not None]
                place = f" while reading {_name_in_another_process(self._source, samples[0])}" if samples else ""
                raise RunFailure(f"an input worker (process {process}) {ending(worker.exitcode, place)}")

    def _check_starting(self, reader: int) -> None:
        """Raise a RunFailure for a worker that was killed while it started.

        `multiprocessing` does not know it yet, and waits for it to read what it was sent.
        """
        if not self.board.shared or self.board.read(reader)[1]:
            return
        with contextlib.suppress(ChildProcessError):  # there are no children at all
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended and ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED):
                place = " while it started"
                raise RunFailure(f"an input worker (process {ended.si_pid}) {ending(-ended.si_status, place)}")

    def _check_progress(self, reader: int, idle: float) -> None:
        sample, note, process = self.board.read(reader)
        if idle < (self.patience.sample if note else self.patience.start):
            return
        which = f"input worker (process {process})" if process not in (0, os.getpid()) else "input"
        if sample is None:
            raise RunFailure(f"the {which} has done nothing for {idle:.3g} s: it hangs or was stopped; {LATER}")
        raise RunFailure(
            f"the {which} has been reading {sample_name(self._source, sample)} for {idle:.3g} s: the "
            f"{'bucket' if self._source.in_bucket else 'disk'} or the decoder hangs, or the process was stopped; "
            f"remove the image if it is the cause, {LATER}"
        )


def sample_name(source: Source[Picture], sample: int | None) -> str:
    """Return a sample's name, or its index if that cannot be had: getting it reads the image, which may hang."""
    if sample is None:
        return "a sample"
    task = Task(lambda: source[sample].name)
    task.join(2)
    with contextlib.suppress(Exception):
        return f"sample {sample}" if task.is_alive() else task.take()
    return f"sample {sample}"


def _name_in_another_process(source: Source[Picture], sample: int) -> str:
    """Like `sample_name`, where reading may also end the process, as it has done once."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send_name, args=(sending, source, sample), daemon=True)
    process.start()
    sending.close()
    try:
        with contextlib.suppress(EOFError):
            return receiving.recv() if receiving.poll(20) else f"sample {sample}"
        return f"sample {sample}"
    finally:
        process.kill()


def _send_name(sending: Connection, source: Source[Picture], sample: int) -> None:
    sending.send(sample_name(source, sample))


def ending(exitcode: int, place: str) -> str:
    """Say how a process ended at a `place`, such as " while reading a.jpg", and what to do."""
    if exitcode >= 0:
        return f"ended{place} with exit status {exitcode}: look at what it printed, {LATER}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-exitcode).name
        return f"was killed by {name}{place}, {ADVICE.get(name, CRASHED)}"
    return f"was killed by signal {-exitcode}{place}: {LATER}"
