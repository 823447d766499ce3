"""Turns the user's mistakes into one line and exit status 2."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from cdnv2_jax.errors import LostProcess, UserError

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130  # what shells report for Ctrl-C


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line; `--help` shows the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def program_name(script: str, command: str) -> str:
    """What usage and messages call a program: the console command if that was started, else the checkout's script."""
    return command if Path(sys.argv[0]).stem == command else script


def guarded(action: Callable[[], None], program: str) -> int:
    """Runs `action`: 0, or after one line on standard error 2 for a UserError, 130 for Ctrl-C, 1 for a LostProcess.

    Of a group of UserErrors each gets a line.
    """
    try:
        action()
    except UserError as error:
        _complain(program, error)
        return BAD_INPUT
    except ExceptionGroup as group:
        _, others = group.split(UserError)
        if others is not None:
            raise
        for error in group.exceptions:
            _complain(program, error)
        return BAD_INPUT
    except LostProcess as error:
        print(f"{program}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _complain(program: str, error: Exception) -> None:
    message = " ".join(str(error).split())
    print(f"{program}: {message}", file=sys.stderr)


def expect_no_more(parser: argparse.ArgumentParser, rest: Sequence[str]) -> None:
    """Complains about arguments nobody asked for."""
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
