"""Starting the processes that read images."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any


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
