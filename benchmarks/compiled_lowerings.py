"""Find the best lowering of each operation and shape for an accelerator that is not there, by its compiler.

    python -m benchmarks.compiled_lowerings --target v5e [--models cdnv2_a cdnv2_c] [--batch 1 8 128] [--write-table]

The operations are those of `benchmarks.lowerings`, the compilers those of `benchmarks.compiled`. Nothing is timed: a
TPU's milliseconds are the compiler's estimated cycles, an H100's the bytes that kernels read and write at the memory's
bandwidth, and 3 µs for each kernel. These say nothing of how slow cuDNN's grouped convolutions are, as users of Keras
and JAX report: for a GPU only the dense, block-diagonal form is considered. With --write-table each row replaces the
one of its kind and shape in `cdnv2_jax/layers/lowerings.json`.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console

from benchmarks.compiled_program import figures_of, on
from benchmarks.compiled_targets import TARGETS, check_target, devices_of, environment, versions
from benchmarks.lowered_operations import Operation, convolutions
from benchmarks.lowerings import print_lowerings
from benchmarks.options import check_models, make_parser, positive, run
from cdnv2_jax.errors import one_line
from cdnv2_jax.files import replacing
from cdnv2_jax.layers import lowering
from cdnv2_jax.networks.family import model_entry

SCRIPT = "compiled_lowerings"
INSIDE = "CDNV2_COMPILED_LOWERINGS"
"""Set in the process that compiles."""

LAUNCH = 3e-3
"""Milliseconds to start a kernel on a GPU, about."""

MADE_OF = {
    "tpu": "estimated cycles",
    "gpu": "bytes read and written, by the memory's bandwidth, and 3 µs for each kernel",
}
LAYERS = ("grouped_conv", "grouped_pointwise", "condensed_pointwise")
Row = dict[str, Any]


def row_of(operation: Operation, target: str, directions: Sequence[str]) -> Row:
    """Compile all lowerings of one operation; return its row of the lowering table."""
    row: Row = {"kind": operation.kind, "shape": vars(operation.shape)}
    mesh = Mesh(devices_of(target, 1), ("device",))
    arguments = on(NamedSharding(mesh, PartitionSpec()), operation.arguments)
    platform = TARGETS[target].traced_as
    ways = ["block_diagonal"] if (platform, operation.kind) == ("gpu", "grouped_conv") else operation.ways
    for direction in operation.directions:
        if direction not in directions:
            continue
        times = {}
        for way in ways:
            with lowering.tracing_for(platform):
                traced = jax.jit(operation.function(way, direction)).trace(*arguments)
                program = traced.lower(lowering_platforms=(TARGETS[target].platform,))
            try:
                figures = figures_of(program.compile(), TARGETS[target], operation.shape.batch)
            except jax.errors.JaxRuntimeError as error:  # too large for the device, say
                print(f"{operation.kind} {way}: {one_line(error, 200)}", file=sys.stderr)
                continue
            launches = LAUNCH * figures["steps"] if platform == "gpu" else 0.0
            # What a TPU's compiler estimates nothing for, gathers above all, is not free.
            milliseconds = figures["milliseconds"] + figures.get("unestimated_milliseconds", 0.0)
            times[way] = float(f"{milliseconds + launches:.3g}")
        row[direction] = times
    return row


def write_row(row: Row, target: str) -> None:
    """Replace the row of its kind and shape, direction by direction, in the platform's part of the table."""
    table = json.loads(lowering.TABLE.read_text(encoding="utf-8"))
    platform = TARGETS[target].traced_as
    rows = table.get(platform, {}).get("rows", [])
    old = next((one for one in rows if (one["kind"], one["shape"]) == (row["kind"], row["shape"])), None)
    rows = [old | row if one is old else one for one in rows] if old else [*rows, row]
    by = {package: version for package, version in versions(target).items() if version}
    made = {"device": target, "compiled, not timed": MADE_OF[platform], "versions": by}
    table[platform] = {"machine": {**made, "date": datetime.date.today().isoformat()}, "rows": rows}
    with replacing(lowering.TABLE) as file:
        file.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def lowerings(options: argparse.Namespace, console: Console) -> None:
    """Compile, print and write the rows."""
    rows: list[Row] = []
    for name in options.models:
        entry = model_entry(name)
        for batch in options.batch:
            operations = convolutions(entry.architecture, entry.image_size, batch, options.dtype)
            for operation in reversed(list(operations)):  # the largest maps, which take longest, last
                if operation.kind not in options.kinds:
                    continue
                rows.append(row_of(operation, options.target, options.directions))
                if options.write_table:
                    write_row(rows[-1], options.target)
    console.print(f"{options.target}, compiled, not timed: {MADE_OF[TARGETS[options.target].traced_as]}")
    spreads = [
        row | {d: {way: {"median": ms} for way, ms in row[d].items()} for d in ("forward", "gradient") if d in row}
        for row in rows
    ]
    print_lowerings([row | {"refused": {}} for row in spreads], console)


def in_its_environment(options: argparse.Namespace, console: Console) -> None:
    """Check the options and compile, in a process with the environment that the target's compiler needs."""
    check_models(options.models)
    check_target(options.target, 1)
    if os.environ.get(INSIDE):
        return lowerings(options, console)
    command = [sys.executable, "-m", f"benchmarks.{SCRIPT}", *sys.argv[1:]]
    subprocess.run(command, env={**environment(options.target, 1), INSIDE: "1"}, check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    targets = [name for name, target in TARGETS.items() if target.extra]
    parser.add_argument("--target", required=True, choices=targets, help="what to compile for")
    parser.add_argument(
        "--models", nargs="+", default=["cdnv2_a", "cdnv2_c"], metavar="NAME", help="models whose shapes to compile"
    )
    parser.add_argument(
        "--batch", nargs="+", type=positive, default=[1, 8, 128], metavar="N", help="images (default: 1 8 128)"
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="(default: bfloat16)")
    parser.add_argument(
        "--directions",
        nargs="+",
        choices=["forward", "gradient"],
        default=["forward", "gradient"],
        help="(default: both)",
    )
    parser.add_argument("--kinds", nargs="+", choices=LAYERS, default=LAYERS, help="operations (default: all)")
    parser.add_argument("--write-table", action="store_true", help="also write cdnv2_jax/layers/lowerings.json")
    return run(parser, in_its_environment, arguments)


if __name__ == "__main__":
    sys.exit(main())
