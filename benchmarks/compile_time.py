"""How long does it take until a program is ready: cold, and with JAX's persistent compilation cache?

    python -m benchmarks.compile_time [--models cdnv2_a] [--programs train condensed masked]

Programs: the training step at batch 16 and predictions of single images, at the model's own image size. Each is made
ready twice, in fresh processes that share an empty cache in a temporary directory: the first has to compile ("cold",
and fills the cache), the second finds it there ("cached"). Told are lowering (tracing included), compiling (or reading
from the cache) and the time until the first result, which is all of it and one execution. Importing JAX and drawing
weights do not count. No peer, no floor.
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
    """Seconds of a program, cold and cached."""
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
    """Measures, prints, writes."""
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
    """One row for each program and process."""
    table = Table(title="Seconds until a program is ready")
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
    """Returns the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    parser.add_argument(
        "--models", nargs="+", default=["cdnv2_a", "cdnv2_b", "cdnv2_c"], metavar="NAME", help="of ours"
    )
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=["train", "condensed"], help="of each model")
    add_output(parser)
    return run(parser, compile_time, arguments)


if __name__ == "__main__":
    sys.exit(main())
