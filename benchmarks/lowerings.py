"""Find the fastest lowering of each operation and shape, forward and with the gradient.

    python -m benchmarks.lowerings [--models cdnv2_a cdnv2_c] [--batch 16] [--dtype bfloat16] [--write-table]

Operations: the grouped convolutions of the last dense layer of each block and, on a CPU in float32, inference and
training steps of whole networks, with the C++ kernels or layer by layer. All lowerings of one shape are timed in turn;
one that fails here, or gives another result, is refused. With --write-table the medians replace this back end's part of
the lowering table (`cdnv2_jax/layers/lowerings.json`).
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.comparison import admitted
from benchmarks.lowered_operations import Operation, convolutions, networks
from benchmarks.machine import describe
from benchmarks.options import add_measuring, check_models, make_parser, positive, run
from benchmarks.results import Entry, results_file, write_results
from benchmarks.timing import measure_in_turn, spread
from cdnv2_jax.files import replacing
from cdnv2_jax.layers import lowering
from cdnv2_jax.networks.family import model_entry

SCRIPT = "lowerings"
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest difference between the results of two lowerings, relative to the largest value."""


def measured(operation: Operation, dtype: str, rounds: int, seconds: float) -> Entry:
    """Time all lowerings of one operation: `Spread`s of milliseconds by direction and lowering, and refusals."""
    entry: Entry = {"kind": operation.kind, "shape": dataclasses.asdict(operation.shape), "dtype": dtype, "refused": {}}
    for direction in operation.directions:
        ways = {way: partial(operation.prepare, way, direction) for way in operation.ways}
        expected = operation.probe(operation.prepare(operation.ways[0], direction))
        calls, refused = admitted(ways, expected, probe=operation.probe, tolerance=TOLERANCE[dtype])
        times = measure_in_turn(calls, rounds=rounds, seconds=seconds)
        entry[direction] = {way: spread(values)._asdict() for way, values in times.items()}
        entry["refused"] |= refused
    return entry


def table_row(entry: Entry) -> dict[str, Any]:
    """Convert an entry to a row of the lowering table: medians to three digits."""
    medians = {
        direction: {way: float(f"{spread['median']:.3g}") for way, spread in entry[direction].items()}
        for direction in ("forward", "gradient")
        if direction in entry
    }
    return {"kind": entry["kind"], "shape": entry["shape"], **medians}


def write_table(rows: list[dict[str, Any]], platform: str, machine: Mapping[str, Any]) -> None:
    """Replace a back end's part of the lowering table; `machine` says where its times are from."""
    table = json.loads(lowering.TABLE.read_text(encoding="utf-8"))
    table[platform] = {"machine": machine, "rows": rows}
    with replacing(lowering.TABLE) as file:
        file.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def operations(names: Sequence[str], batch: int, dtype: str) -> Iterator[Operation]:
    """Yield all operations to measure."""
    for name in names:
        entry = model_entry(name)
        yield from convolutions(entry.architecture, entry.image_size, batch, dtype)
        if jax.default_backend() == "cpu" and dtype == "float32":
            yield from networks(name, batch)


def lowerings(options: argparse.Namespace, console: Console) -> None:
    """Measure, print and write the results."""
    check_models(options.models)
    path = results_file(options.output, SCRIPT)
    entries: list[Entry] = []
    for operation in operations(options.models, options.batch, options.dtype):
        entries.append(measured(operation, options.dtype, options.rounds, options.seconds))
        write_results(path, SCRIPT, {}, entries)
    print_lowerings(entries, console)
    console.print(f"written to {path}")
    if options.write_table:
        machine = {key: describe()[key] for key in ("processor", "cores", "device", "date")}
        write_table([table_row(entry) for entry in entries], jax.default_backend(), machine)
        console.print(f"written to {lowering.TABLE}")


def print_lowerings(entries: list[Entry], console: Console) -> None:
    """Print one row per shape and direction."""
    table = Table(title="Milliseconds, the fastest way first")
    for column in ("operation", "shape", "direction", "ways"):
        table.add_column(column)
    for entry in entries:
        s = entry["shape"]
        shape = f"{s['batch']} × {s['side']:.0f}², {s['inputs']} → {s['outputs']}, {s['groups']} groups"
        for direction in ("forward", "gradient"):
            medians = sorted((spread["median"], way) for way, spread in entry.get(direction, {}).items())
            if medians:
                ways = ", ".join(f"{way} {median:.2f}" for median, way in medians)
                table.add_row(entry["kind"], shape, direction, ways)
        for way, reason in entry["refused"].items():
            table.add_row(entry["kind"], shape, "refused", f"{way}: {reason}")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    parser.add_argument(
        "--models", nargs="+", default=["cdnv2_a", "cdnv2_c"], metavar="NAME", help="models whose shapes to time"
    )
    parser.add_argument("--batch", type=positive, default=16, metavar="N", help="images (default: 16)")
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="float32", help="(default: float32)")
    parser.add_argument("--write-table", action="store_true", help="also write cdnv2_jax/layers/lowerings.json")
    add_measuring(parser)
    return run(parser, lowerings, arguments)


if __name__ == "__main__":
    sys.exit(main())
