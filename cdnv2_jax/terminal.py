"""The one way to print: text from outside is shown, not obeyed, and a closed or full output ends the command."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from cdnv2_jax.errors import UserError


class ClosedOutput(Exception):
    """Nobody reads standard output any more, as after `| head`."""


_silent = False


def be_silent(silent: bool = True) -> None:
    """Print nothing on standard output from here on: another process of this run does. Errors are still printed."""
    global _silent
    _silent = silent


def escaped(text: str) -> str:
    """Return text as one line that no terminal obeys: everything that is not printable becomes an escape.

    Escaped are control characters, line breaks, overrides of the writing direction and, as `\\udce9`, bytes of a file's
    name that are not UTF-8.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print lines, each of them `escaped`, on standard output (unless silent) or in `file`.

    Raises:
      ClosedOutput, UserError: it cannot be written.
    """
    if _silent and file is None:
        return
    stream = file or sys.stdout
    with _writing_to(stream):
        for line in lines:
            print(escaped(str(line)), file=stream)
        stream.flush()


class Terminal(Console):
    """Standard output, or error, for lines, tables and progress bars, all text `escaped` and without markup."""

    def __init__(self, *, stderr: bool = False):
        # Open MPI gives its tasks a terminal that nobody watches, and does not read it while it stops them.
        terminal = False if "OMPI_COMM_WORLD_RANK" in os.environ else None
        super().__init__(
            quiet=_silent and not stderr,
            stderr=stderr,
            force_terminal=terminal,
            markup=False,
            highlight=False,
            emoji=False,
            soft_wrap=True,
        )

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as Rich does; raise as `say` does."""
        with _writing_to(self.file):
            super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text to be printed; Rich calls this for lines, and for titles and cells of tables."""
        return super().render_str(escaped(text), **options)

    def on_broken_pipe(self) -> None:
        """Raise the error that is handled, instead of ending with Rich's status 1."""
        raise


@contextlib.contextmanager
def _writing_to(stream: Any) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # otherwise Python complains again when it ends
        if isinstance(error, BrokenPipeError):
            raise ClosedOutput from error
        raise UserError(f"the output cannot be written: {error.strerror or error}") from error


def prepare_streams() -> None:
    """Let characters that an output's encoding lacks be printed as escapes, open streams that were closed, and print
    each failure once.

    The next file that is opened would otherwise get the number of a closed stream, and what libraries print there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (for the whole process)
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(sys.unraisablehook, _Unraisable):
        sys.unraisablehook = _Unraisable(sys.unraisablehook)


class _Unraisable:
    """Leaves exceptions in callbacks to another hook, except those of TensorStore's for every array that cannot be read
    or written after the first: by then Orbax, which reports that, has closed their event loop."""

    def __init__(self, others: Callable[[Any], Any]):
        self._others = others

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self._others(unraisable)
