"""Compile the project's programs for accelerators that are not there, and say what they will run.

    python -m benchmarks.compiled --target v5e --work condensed masked --model cdnv2_a --batch 1 128
    python -m benchmarks.compiled --target h100 --work train --model cdnv2_c --devices 64
    python -m benchmarks.compiled --target v5e --work detect --model faster_rcnn,cdnv2_a --batch 1

The compilers are the real ones, which need no device: libtpu, and XLA for CUDA with a description of an H100. So
memory, kernels, bytes, layouts and collectives are those of the device. Time is not. On a TPU it is what the compiler
estimates in cycles, good for comparing two forms of one program; "+" is what it estimates nothing for, at least, by the
bytes. On a GPU it is a lower bound, the bytes that kernels read and write at the memory's bandwidth, without launches;
nothing is autotuned.

--batch is the number of images per device. `--config.…` changes the config of a training step. Each program is
compiled in a process of its own, in one to ten minutes on 2 CPU cores, and replaces its row in
DIRECTORY/compiled_TARGET.json; two jobs of one program, as masked and condensed are on accelerators, are compiled once.
With --resume a program is not compiled again by the same compiler. --docs writes the tables in docs/accelerators.md
from all rows in DIRECTORY.
"""

import argparse
import dataclasses
import datetime
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import compiled_docs
from benchmarks.compiled_program import WORKS, Job, check, current_flags
from benchmarks.compiled_targets import TARGETS, check_target, environment, versions
from benchmarks.options import make_parser, positive
from cdnv2_jax.commands.arguments import guarded
from cdnv2_jax.errors import UserError, cut, one_line
from cdnv2_jax.files import replacing

SCRIPT = "compiled"
OWN = Path("runs") / "bench"
Row = dict[str, Any]


def jobs(options: argparse.Namespace, overrides: Sequence[str]) -> list[Job]:
    """Return what to compile; UserError if any of it cannot be."""
    for target in options.target:
        check_target(target, options.devices)
    made = [
        Job(target, work, model, batch, options.devices, options.dtype, tuple(overrides), current_flags())
        for target, model, work, batch in itertools.product(options.target, options.model, options.work, options.batch)
    ]
    for job in made:
        check(job)
    return made


def row_of(job: Job, known: Sequence[str], seconds: float) -> Row:
    """Compile one program in a process of its own, unless it is known; only {"program": hash} then.

    A row that says why if that fails, and UserError for a mistake.
    """
    asked = json.dumps(dataclasses.asdict(job)), json.dumps(known)
    command = [sys.executable, "-m", "benchmarks.compiled_program", *asked]
    try:
        done = subprocess.run(
            command,
            env=environment(job.target, job.devices),
            timeout=seconds,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not compiled within {seconds} seconds"}
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {"failed": f"exit status {done.returncode}: {cut(said[-1], 500) if said else 'without a word'}"}
    if "refused" in found[-1]:
        raise UserError(found[-1]["refused"])
    return found[-1]


def results_of(directory: Path, target: str) -> Path:
    """Return the file of a target's rows."""
    return directory / f"{SCRIPT}_{target}.json"


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file; none if it does not exist. UserError if it cannot be read."""
    if not path.exists():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}): move it away") from error


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write a file of rows, replacing an older one."""
    with replacing(path) as file:
        file.write_text(json.dumps({"benchmark": SCRIPT, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def job_of(row: Row) -> Row:
    """Return the fields of a row that say what was compiled."""
    return {field.name: row.get(field.name) for field in dataclasses.fields(Job)}


def compiled(options: argparse.Namespace, overrides: Sequence[str], console: Console) -> None:
    """Compile, print and write the results."""
    todo = jobs(options, overrides)
    if options.docs:
        compiled_docs.in_docs([])  # fail before compiling
    for target in options.target:
        write_rows(results_of(options.output, target), read_rows(results_of(options.output, target)))
    shown: list[Row] = []
    for job in todo:
        console.print(f"{title(dataclasses.asdict(job))} …")
        path, what = results_of(options.output, job.target), json.loads(json.dumps(dataclasses.asdict(job)))
        rows, by = read_rows(path), versions(job.target)
        known = {
            row["program"]: row
            for row in (rows if options.resume else shown)
            # A program does not say what it is compiled for.
            if row["target"] == job.target
            and row["versions"] == by
            and row["flags"] == what["flags"]
            and "failed" not in row
        }
        found = row_of(job, list(known), options.seconds)
        compiled_before = known.get(found.get("program", ""), {})
        new = {"versions": by, "date": datetime.date.today().isoformat()}
        row = {**new, **compiled_before, **found, **what}
        write_rows(path, [other for other in rows if job_of(other) != what] + [row])
        shown.append(row)
    print_rows(shown, console)
    for target in options.target:
        console.print(f"written to {results_of(options.output, target)}")
    if options.docs:
        rows = [row for target in compiled_docs.TARGETS for row in read_rows(results_of(options.output, target))]
        compiled_docs.DOCS.write_text(compiled_docs.in_docs(rows), encoding="utf-8")
        console.print(f"written to {compiled_docs.DOCS}")


def title(row: Row) -> str:
    """Return "cdnv2_a condensed, v5e, 128 images, bfloat16"."""
    devices = f"{row['devices']} × " if row["devices"] > 1 else ""
    more = "".join(f", {one}" for one in (*row["overrides"], *row["flags"]))
    return f"{row['model']} {row['work']}, {devices}{row['target']}, {row['batch']} images, {row['dtype']}{more}"


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """Print one row per program, and below them what each spends its time on."""
    table = Table(title="Compiled, not run (ms: a TPU's estimated cycles; an H100's bytes at 3.35 TB/s)")
    table.add_column("program")
    for column in ("ms", "images/s", "steps", "GB", "HBM GB", "memory", "layout"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(title(row), *cells(row))
    console.print(table)
    for row in rows:
        console.print(f"{title(row)}: {remarks(row)}", highlight=False)
        for one in row.get("sources", []):
            console.print(f"  {100 * one['share']:5.1f} %  {one['source']} ({one['steps']} ×)", highlight=False)


def cells(row: Row) -> list[str]:
    """Return the figures of a row; of one that failed, that it did."""
    if "failed" in row:
        return ["failed"]
    return [
        milliseconds(row),
        f"{row['images_per_second']:,.0f}" if "images_per_second" in row else "",
        f"{row['steps']:,}",
        f"{row['bytes'] / 1e9:.2f}",
        f"{row['hbm_bytes'] / 1e9:.2f}" if "hbm_bytes" in row else "",
        f"{row['memory']['peak'] / 1e9:.2f} GB",
        f"{100 * row['layout_share']:.0f} %" if "layout_share" in row else "",
    ]


def milliseconds(row: Row) -> str:
    """Return "7.5 + 0.4": estimated, and at least for what has no estimate."""
    if "milliseconds" not in row:
        return ""
    return " + ".join(f"{row[key]:.2f}" for key in ("milliseconds", "unestimated_milliseconds") if key in row)


def remarks(row: Row) -> str:
    """Return what has no column: how long compiling took, what is sent between devices, what has no estimate."""
    if "failed" in row:
        return f"not compiled: {row['failed']}"
    seconds = row["compile_seconds"]
    found = [f"compiled in {seconds['wall']:.0f} s ({seconds['cpu']:.0f} s of CPU)"]
    found += [f"{calls['bytes'] / 1e6:.1f} MB in {calls['count']} {kind}" for kind, calls in row["collectives"].items()]
    return ", ".join(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    add = parser.add_argument
    add("--target", nargs="+", choices=list(TARGETS), required=True, help="what to compile for")
    add("--work", nargs="+", choices=WORKS, default=["condensed"], help="which program (default: condensed)")
    add("--model", nargs="+", default=["cdnv2_a"], metavar="NAME", help="networks, configs or detectors")
    add("--batch", nargs="+", type=positive, default=[128], metavar="N", help="images per device (default: 128)")
    add("--devices", type=positive, default=1, metavar="N", help="devices (default: 1)")
    add("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="(default: bfloat16)")
    add("--resume", action="store_true", help="keep rows whose program and compiler are the same")
    add("--docs", action="store_true", help="also write the tables in docs/accelerators.md")
    add("--seconds", type=positive, default=3600, metavar="N", help="per program (default: 3600)")
    add("--output", type=Path, default=OWN, metavar="DIRECTORY", help="where results go (default: runs/bench)")
    options, overrides = parser.parse_known_args(arguments)
    for override in overrides:
        if not override.startswith("--config."):
            parser.error(f"unrecognized arguments: {override}")
    return guarded(lambda: compiled(options, overrides, Console(soft_wrap=True)), parser.prog)


if __name__ == "__main__":
    sys.exit(main())
