"""Turns the user's mistakes into one line and exit status 2."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from cdnv2_jax.errors import UserError

BAD_INPUT = 2


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line; `--help` shows the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def guarded(action: Callable[[], None], program: str) -> int:
    """Runs `action`: 0, or 2 after a UserError has been printed as one line on standard error."""
    try:
        action()
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"{program}: {message}", file=sys.stderr)
        return BAD_INPUT
    return 0


def expect_no_more(parser: argparse.ArgumentParser, rest: Sequence[str]) -> None:
    """Complains about arguments nobody asked for."""
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
