"""Flags and error handling that the benchmarks' command lines share."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.networks import SMALLEST, know_smallest
from benchmarks.results import COMMITTED, OWN
from cdnv2_jax.commands.arguments import OneLineParser, guarded
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.family import model_entry

Script = Callable[[argparse.Namespace, Console], None]


def make_parser(script: str, doc: str | None) -> OneLineParser:
    """Make a parser for `python -m benchmarks.<script>` whose help is the module's docstring."""
    return OneLineParser(
        prog=f"python -m benchmarks.{script}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add --output."""
    parser.add_argument(
        "--output",
        type=Path,
        default=OWN,
        metavar="DIRECTORY",
        help="results replace those in its folder for this kind of machine (default: runs/bench)",
    )


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add --results."""
    default = COMMITTED / "cpu_2_cores"
    parser.add_argument(
        "--results",
        type=Path,
        default=default,
        metavar="DIRECTORY",
        help="results to read (default: benchmarks/results/cpu_2_cores)",
    )


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """Add --output, --rounds and --seconds."""
    add_output(parser)
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="timed rounds (default: 7, at least 5)")
    parser.add_argument(
        "--seconds",
        type=positive,
        default=60,
        metavar="N",
        help="per entry, then only five rounds (default: 60)",
    )


def positive(text: str) -> int:
    """Parse a positive integer, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def check_models(names: Sequence[str]) -> None:
    """Raise UserError unless all names are models of the CondenseNet family, or SMALLEST."""
    if SMALLEST in names:
        know_smallest()
    for name in names:
        if not isinstance(model_entry(name).architecture, CondenseNetArchitecture):
            raise UserError(f"benchmarks need a CondenseNet, which {name} is not")


def run(parser: OneLineParser, script: Script, arguments: Sequence[str] | None) -> int:
    """Parse and run; print the user's mistakes as one line; return the exit status."""
    options = parser.parse_args(arguments)
    return guarded(lambda: script(options, Console(soft_wrap=True)), parser.prog)
