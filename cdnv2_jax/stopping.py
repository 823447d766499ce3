"""How a program ends on SIGTERM and Ctrl-C: by an exception at once, between two steps of training, or, if its main
thread is in a long call of a library and runs no Python, by a thread that watches.

Light to import, so that signals are handled before JAX is there.
"""

import contextlib
import dataclasses
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

FAILED = 1  # input or another process hangs or has died, nothing that the user can correct
INTERRUPTED = 130  # what shells report for Ctrl-C
TERMINATED = 143  # and for SIGTERM
PATIENCE = 5.0  # seconds until a program is ended whose main thread does not notice SIGTERM
PATIENCE_WITH_STEPS = PATIENCE_TO_TIDY = 25.0  # if that would lose steps or leave files behind; clusters kill after 30


class Terminated(SystemExit):
    """SIGTERM asked this program to end; the message is for the user.

    A SystemExit, because libraries pass that on where they hold back other exceptions.
    """

    def __init__(self, message: str, status: int):
        super().__init__(status)
        self.message, self.status = message, status

    def __str__(self) -> str:
        return self.message


@dataclasses.dataclass
class _Request:
    """What SIGTERM does to this process, and how far that has come.

    Attributes:
      status: the program's exit status because of it.
      message: what is said then.
      asked: whether SIGTERM has come.
      postponed: whether it is only noted, to be looked at by `asked` and `check`.
      raised: whether it has raised Terminated; once is enough, as the second would interrupt cleaning up.
      noticed: whether the main thread is ending the program by itself, so that nothing else may.
      losing: whether steps would be lost if the program were ended without its main thread.
      deadline: when the program is ended without its main thread, in `time.monotonic`.
    """

    status: int = TERMINATED
    message: str = "terminated"
    asked: bool = False
    postponed: bool = False
    raised: bool = False
    noticed: bool = False
    losing: bool = False
    deadline: float | None = None


_request = _Request()


def run_program(program: Callable[[], int]) -> int:
    """Run a script's `main` with signals handled, and return its exit status.

    SIGTERM raises Terminated, Ctrl-C KeyboardInterrupt, and a second Ctrl-C ends the process at once, whatever it is
    doing. Afterwards both signals end it at once: nothing is left to do but to wait for threads.
    """
    global _request
    request = _request = _Request()
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGTERM, _on_signal)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else ignored, as in `nohup … &`
        signal.signal(signal.SIGINT, _on_signal)
    # Written to by the interpreter's own handler, so whatever the main thread is doing.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, request), daemon=True).start()
    try:
        status = program()
    except KeyboardInterrupt:  # before or after the command itself, which says so in its own name
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    except Terminated as stop:
        print(stop, file=sys.stderr if stop.status else sys.stdout)
        status = stop.status
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if status == FAILED:  # Python would wait for what hangs, and libraries would complain about what died
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if request.asked:  # threads of libraries must not keep the process from ending; the message is printed
        request.status, request.message = status, ""
        request.deadline, request.noticed = time.monotonic() + PATIENCE, False
    return status


def resumable(message: str) -> None:
    """Let SIGTERM end this program with a message and, except in a pod, with status 0: the same command resumes.

    Kubernetes takes a container that ended with 0 for finished, and would not start it again.
    """
    _request.status, _request.message = (TERMINATED if "KUBERNETES_SERVICE_HOST" in os.environ else 0), message


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Only note SIGTERM in a `with` block, which calls `asked` or `check` often. Does not concern Ctrl-C."""
    _request.postponed, _request.noticed = True, False
    try:
        yield
    finally:
        _request.postponed = _request.losing = False


def steps_to_lose() -> None:
    """Say that work would be lost if this process were ended without its main thread, which gets more time to save."""
    _request.losing = _request.postponed


def asked() -> bool:
    """Return whether SIGTERM has asked the program to end; if so, the caller saves and ends, however long it takes."""
    _request.noticed = _request.asked
    return _request.asked


def check() -> None:
    """Raise Terminated if SIGTERM has asked the program to end."""
    if asked():
        raise stopped(_request.message)


def stopped(message: str) -> Terminated:
    """Return what ends the program because it was asked to, with a message for the user."""
    return Terminated(message, _request.status)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Raise what the signal asks for, unless it is postponed; in the middle of an import, end the process.

    There an exception may crash it: libraries in C++ do not expect one when they start. Nothing is written then.
    """
    asked = number == signal.SIGTERM
    _request.asked |= asked
    if asked and (_request.postponed or _request.raised):
        return
    _request.raised |= asked
    if _is_importing(frame):
        _end(_request.status if asked else INTERRUPTED, _request.message if asked else "interrupted")
    if not asked:
        raise KeyboardInterrupt
    _request.deadline = time.monotonic() + PATIENCE_TO_TIDY
    raise Terminated(_request.message, _request.status)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _watch(reading: int, request: _Request) -> None:
    """End the process on a second Ctrl-C, and when its main thread lets the time after a SIGTERM pass."""
    interrupts = 0
    while True:
        ready, _, _ = select.select([reading], [], [], None if request.deadline is None else 0.1)
        received = os.read(reading, 64) if ready else b""
        interrupts += received.count(signal.SIGINT)
        if interrupts > 1:
            os._exit(INTERRUPTED)
        if signal.SIGTERM in received and request.deadline is None:
            request.deadline = time.monotonic() + (PATIENCE_WITH_STEPS if request.losing else PATIENCE)
        if request.deadline is not None and time.monotonic() > request.deadline and not request.noticed:
            _end(request.status, LOST if request.losing else request.message)


LOST = (
    f"asked to stop: a step took more than {PATIENCE_WITH_STEPS:g} seconds, so that the steps since the last "
    f"checkpoint are lost; repeat the command to resume"
)


def _end(status: int, message: str) -> NoReturn:
    """End the process at once, with a message, whatever its threads are doing."""
    with contextlib.suppress(OSError):  # not through Python's streams, which the main thread may be using
        os.write(1 if status == 0 else 2, f"{message}\n".encode() if message else b"")
    os._exit(status)
