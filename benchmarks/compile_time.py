"""Measure compilation time, cold and with JAX's persistent compilation cache.

    python -m benchmarks.compile_time [--models cdnv2_a] [--programs train condensed masked]

Programs: the training step at batch 16 and the forward pass of a single image, at the model's image size. Each is
compiled twice, in fresh processes that share a temporary cache: the first compiles and fills it ("cold"), the second
reads it ("cached"). Reported are lowering (with tracing), compiling (or reading the cache), and the time until the
first result, which also includes one execution. Importing JAX and initialising weights are not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.compile_once import PROGRAMS, Program
from benchmarks.options import add_output, check_models, make_parser, run
from benchmarks.results import Entry, results_file, write_results

SCRIPT = "compile_time"
BATCHES: dict[Program, int] = {"train": 16, "condensed": 1, "masked": 1}
CACHE = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


def compile_entry(name: str, program: Program) -> Entry:
    """Measure the seconds of a program, cold and cached."""
    batch = BATCHES[program]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, **CACHE, "JAX_COMPILATION_CACHE_DIR": cache}
        command = [sys.executable, "-m", "benchmarks.compile_once", program, name, str(batch)]
        cold, cached = (
            json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
            for _ in range(2)
        )
    return {"model": name, "program": program, "batch": batch, "seconds": {"cold": cold, "cached": cached}}


def compile_time(options: argparse.Namespace, console: Console) -> None:
    """Measure, print and write the results."""
    check_models(options.models)
    path = results_file(options.output, SCRIPT)
    entries: list[Entry] = []
    for name in options.models:
        for program in options.programs:
            console.print(f"{name}, {program} …")
            entries.append(compile_entry(name, program))
            write_results(path, SCRIPT, {}, entries)
    print_seconds(entries, console)
    console.print(f"written to {path}")


def print_seconds(entries: list[Entry], console: Console) -> None:
    """Print one row per program and process."""
    table = Table(title="Compilation time, seconds")
    table.add_column("program")
    table.add_column("process")
    for column in ("lowering", "compiling", "first result"):
        table.add_column(column, justify="right")
    for entry in entries:
        for process, seconds in entry["seconds"].items():
            cells = (f"{seconds[key]:.1f}" for key in ("lowering", "compiling", "first_result"))
            table.add_row(f"{entry['model']} {entry['program']}, batch {entry['batch']}", process, *cells)
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    parser.add_argument("--models", nargs="+", default=["cdnv2_a", "cdnv2_b", "cdnv2_c"], metavar="NAME", help="models")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=["train", "condensed"], help="of each model")
    add_output(parser)
    return run(parser, compile_time, arguments)


if __name__ == "__main__":
    sys.exit(main())
