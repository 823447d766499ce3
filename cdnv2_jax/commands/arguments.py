"""Command-line arguments shared by several verbs, and the exit statuses of a command."""

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from cdnv2_jax.bounded_reading import read_text
from cdnv2_jax.errors import RunFailure, UserError, cut
from cdnv2_jax.paths import as_path
from cdnv2_jax.stopping import FAILED, INTERRUPTED, Terminated
from cdnv2_jax.terminal import ClosedOutput, escaped, prepare_streams, say

BAD_INPUT = 2
CLOSED_PIPE = 141  # what shells report for SIGPIPE
LONGEST = 398  # characters of an error, whatever names and messages of others it quotes


class OneLineParser(argparse.ArgumentParser):
    """Argument parser whose errors are one line, without the usage."""

    def __init__(self, **options: Any):
        prepare_streams()  # before --help and errors are printed
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        _complain(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(BAD_INPUT)


def program_name(script: str, command: str) -> str:
    """Return the program's name for usage and messages: as it was started, as `command` or a module, else `script`."""
    started = {command: command, "__main__": "python -m cdnv2_jax"}
    return started.get(Path(sys.argv[0]).stem, script)


def guarded(action: Callable[[], None], program: str) -> int:
    """Run `action` and return the exit status: 0, or 2 for a UserError, 130 for Ctrl-C, 1 for a RunFailure.

    It is 2, too, if the system refuses a path. For SIGTERM it is 143, or 0 if the same command resumes.

    Errors are printed on standard error, one line each, including each one of a group of UserErrors. When nobody reads
    standard output any more, the command ends quietly with status 141.
    """
    try:
        action()
    except UserError as error:
        _complain(f"{program}: {error}")
        return BAD_INPUT
    except ExceptionGroup as group:
        _, others = group.split(UserError)
        if others is not None:
            raise
        for error in group.exceptions:
            _complain(f"{program}: {error}")
        return BAD_INPUT
    except RunFailure as error:
        _complain(f"{program}: {error}")
        return FAILED
    except ClosedOutput:
        return CLOSED_PIPE
    except OSError as error:
        if error.filename is None:
            raise
        _complain(f"{program}: {os.fsdecode(error.filename)}: {error.strerror}")  # permission, length of a name, …
        return BAD_INPUT
    except KeyboardInterrupt:
        _complain(f"{program}: interrupted")
        return INTERRUPTED
    except Terminated as stop:
        if stop.status:
            _complain(f"{program}: {stop}")
        else:
            say(stop)
        return stop.status
    return 0


def one_of_several(action: Callable[[], int]) -> int:
    """Run `action` in a process that may be one of several, and return its exit status.

    When one of several processes fails, it exits at once, so that the others notice. Otherwise it would wait in JAX's
    shutdown for processes that are waiting for it in the middle of a step.
    """
    try:
        status = action()
    except BaseException:
        if not _is_one_of_several():
            raise
        traceback.print_exc()
        status = FAILED
    if status and _is_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _is_one_of_several() -> bool:
    jax = sys.modules.get("jax")  # not imported for this
    try:
        return jax is not None and jax.process_count() > 1
    except Exception:  # JAX cannot start its devices, which the user has been told
        return False


def _complain(message: str) -> None:
    with contextlib.suppress(UserError, ClosedOutput):  # the exit status still tells
        # What to do comes last, so the middle is left out.
        say(cut(escaped(" ".join(message.split())), LONGEST), file=sys.stderr)


def print_taken(taken: str, file: TextIO | None = None) -> None:
    """Print which of a file's weights were taken, if there was a choice, on standard output or in `file`."""
    if taken:
        say(f"weights: {taken}", file=file)


def print_chosen(given: Path, network: Path, file: TextIO | None = None) -> None:
    """Print which network of a run was taken, if a run was given, on standard output or in `file`."""
    if network != given:
        say(f"network: {network}", file=file)


def expect_no_more(parser: argparse.ArgumentParser, rest: Sequence[str]) -> None:
    """Exit with an error message if unrecognised arguments are left."""
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")


WEIGHTS = ("auto", "ema", "model")


def checkpoint(verb: argparse.ArgumentParser, *, programs: bool = False) -> None:
    """Add `--checkpoint`, a network of any kind; with `programs`, also an exported one."""
    verb.add_argument(
        "--checkpoint",
        type=path,
        required=True,
        metavar="PATH",
        help="directory (a run's or a network's), pretrained:NAME, or file (official, "
        + (".safetensors, .onnx or .stablehlo)" if programs else "or .safetensors)"),
    )


def official_file(verb: argparse.ArgumentParser) -> None:
    """Add the flags that describe an official file."""
    verb.add_argument("--model", metavar="NAME", help="the network in an official file, if the file does not name it")
    weights(verb)
    verb.add_argument("--num-classes", type=int, metavar="N", help="classes of an official file (default: as stored)")


def weights(verb: argparse.ArgumentParser) -> None:
    """Add `--weights`, the choice between a file's weights."""
    verb.add_argument(
        "--weights", choices=WEIGHTS, default="auto", help="which weights of an official file (auto: EMA if any)"
    )


def halve_classifier(verb: argparse.ArgumentParser, only: str = "") -> None:
    """Add `--halve-classifier`, an option of condensing a CondenseNet (v1); `only` precedes the help text."""
    verb.add_argument(
        "--halve-classifier",
        action="store_true",
        help=f"{only}CondenseNet (v1): halve the classifier's inputs, as the official conversion does; changes logits",
    )


def class_names(verb: argparse.ArgumentParser) -> None:
    """Add `--class-names`, to replace the names stored with a network."""
    verb.add_argument("--class-names", type=path, metavar="FILE", help="names of the classes, one per line")


def processes(verb: argparse.ArgumentParser) -> None:
    """Add the flags for a run of several processes, and `--compilation-cache`."""
    verb.add_argument(
        "--distributed",
        action="store_true",
        help="join the other processes, found through SLURM, Open MPI, Kubernetes or a TPU pod's metadata",
    )
    verb.add_argument("--coordinator", metavar="HOST:PORT", help="address of the first of several processes")
    verb.add_argument("--processes", type=int, metavar="N", help="how many processes there are")
    verb.add_argument("--process", type=int, metavar="I", help="index of this process, from 0")
    verb.add_argument(
        "--compilation-cache", type=path, metavar="DIR", help="cache compiled programs (JAX_COMPILATION_CACHE_DIR)"
    )


def path(text: str) -> Path:
    """Parse a path or a bucket's address, with a leading ~ or ~USER replaced by a home directory."""
    if not text:
        raise argparse.ArgumentTypeError("must be a path, got ''")
    try:
        return as_path(os.path.expanduser(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> int:
    """Parse an integer >= 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return int(text)


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return value


def window(text: str) -> tuple[int, int]:
    """Parse two steps such as "100:110", the first before the last."""
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"must be FIRST:LAST, two steps such as 100:110, got {text!r}")
    return int(first), int(last)


def canvas(text: str) -> tuple[int, int]:
    """Parse a height and a width in pixels, such as "800x1344"."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and 0 < int(height) <= 8192 and 0 < int(width) <= 8192):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH in pixels, such as 800x1344, got {text!r}")
    return int(height), int(width)


def read_class_names(file: Path | None) -> list[str]:
    """Return the lines of a UTF-8 file, class names in the order of the labels; [] if None.

    Raises:
      UserError: the file cannot be read, is not UTF-8, or holds no names.
    """
    if file is None:
        return []
    try:
        text = read_text(file)
        if "\0" in text:
            raise ValueError("it is not text in UTF-8, but perhaps in UTF-16")
    except ValueError as error:
        raise UserError(
            f"--class-names {file} cannot be read ({error}): give a text file in UTF-8, one name per line"
        ) from error
    names = [line.strip() for line in text.split("\n") if line.strip()]
    if not names:
        raise UserError(f"--class-names {file} is empty: write one name per line, in the order of the labels")
    return names
