"""Which way to compute a grouped convolution is fastest where? Per shape, forward alone and with the backward pass.

    python -m benchmarks.lowerings [--models cdnv2_a cdnv2_c] [--batch 16] [--dtype bfloat16]

Ways: those that `cdnv2_jax/layers/grouped_conv.py` and `grouped_pointwise.py` name. Shapes: the last dense layer of
each block. All ways of one shape are timed in turn; one that fails here, or gives another result, is refused.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.comparison import admitted
from benchmarks.machine import measured_rates
from benchmarks.options import add_measuring, check_models, make_parser, positive, run
from benchmarks.results import Entry, results_file, write_results
from benchmarks.timing import Call, measure_in_turn, spread
from cdnv2_jax.layers.grouped_conv import Lowering, grouped_conv
from cdnv2_jax.layers.grouped_pointwise import PointwiseLowering, grouped_pointwise
from cdnv2_jax.models.architecture import Architecture
from cdnv2_jax.models.registry import model_entry

SCRIPT = "lowerings"
DIRECTIONS = ("forward", "with backward")
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""How far results of two ways may be apart, relative to the largest."""


class Operation(NamedTuple):
    """A grouped convolution of one layer.

    Attributes:
      name: "3×3" or "1×1".
      function: (x [batch, side, side, in], kernel, way) → the result.
      ways: names of the lowerings.
      side: of the map. groups, inputs, outputs: of all groups together.
      kernel: its shape.
    """

    name: str
    function: Callable[[jax.Array, jax.Array, Any], jax.Array]
    ways: Sequence[str]
    side: int
    groups: int
    inputs: int
    outputs: int
    kernel: tuple[int, ...]


def operations(a: Architecture, size: int) -> Iterator[Operation]:
    """Both grouped convolutions of each block's last layer, for images of `size` pixels' side."""
    last = {block: (channels, growth) for block, _, channels, growth in a.dense_layers()}
    for block, (channels, growth) in last.items():
        side, wide = a.map_side(block, size), a.bottleneck * growth
        kept = channels // a.lgc_factor  # per group
        yield Operation(
            *("1×1", grouped_pointwise, get_args(PointwiseLowering), side, a.lgc_groups, a.lgc_groups * kept, wide),
            (a.lgc_groups, kept, wide // a.lgc_groups),
        )
        three = partial(_grouped_conv, groups=a.conv_groups)
        kernel = (3, 3, wide // a.conv_groups, growth)
        yield Operation("3×3", three, get_args(Lowering), side, a.conv_groups, wide, growth, kernel)


def _grouped_conv(x: jax.Array, kernel: jax.Array, way: Lowering, *, groups: int) -> jax.Array:
    return grouped_conv(x, kernel, groups, way)


def lowering_entries(operation: Operation, batch: int, dtype: str, rounds: int, seconds: float) -> Iterator[Entry]:
    """Times all ways of one operation, in each direction."""
    random = np.random.default_rng(0)
    shape = (batch, operation.side, operation.side, operation.inputs)
    x, kernel = (jnp.asarray(random.normal(size=s), dtype) for s in (shape, operation.kernel))
    for direction in DIRECTIONS:
        ways = {way: partial(_prepared, operation, way, direction, x, kernel) for way in operation.ways}
        expected = _float32(_prepared(operation, None, direction, x, kernel)())
        calls, refused = admitted(ways, expected, probe=lambda call: _float32(call()), tolerance=TOLERANCE[dtype])
        times = measure_in_turn(calls, rounds=rounds, seconds=seconds)
        milliseconds = {way: spread(values)._asdict() for way, values in times.items()}
        yield {
            "operation": operation.name,
            "direction": direction,
            "batch": batch,
            "dtype": dtype,
            **{name: getattr(operation, name) for name in ("side", "groups", "inputs", "outputs")},
            "milliseconds": milliseconds,
            "fastest": min(milliseconds, key=lambda way: milliseconds[way]["median"], default=None),
            "refused": refused,
        }


def _prepared(operation: Operation, way: str | None, direction: str, x: jax.Array, kernel: jax.Array) -> Call:
    """A call of the compiled operation; `way` None is what the layer chooses by itself."""

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return operation.function(x, kernel, way)

    def gradients(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        # A pull-back of ones would let the compiler leave out multiplications.
        output, pull_back = jax.vjp(forward, x, kernel)
        return pull_back(output)

    compiled = jax.jit(forward if direction == "forward" else gradients)
    return lambda: compiled(x, kernel)


def _float32(result: Any) -> np.ndarray:
    """What is compared, as one row: the result or, of gradients, the kernel's, which sums over all places."""
    return np.asarray(jax.tree.leaves(result)[-1], np.float32).ravel()


def lowerings(options: argparse.Namespace, console: Console) -> None:
    """Measures, prints, writes."""
    check_models(options.models)
    path = results_file(options.output, SCRIPT)
    rates = measured_rates()
    entries: list[Entry] = []
    for name in options.models:
        entry = model_entry(name)
        console.print(f"{name} …")
        for operation in operations(entry.architecture, entry.image_size):
            for found in lowering_entries(operation, options.batch, options.dtype, options.rounds, options.seconds):
                entries.append({"model": name, **found})
                write_results(path, SCRIPT, rates, entries)
    print_lowerings(entries, console)
    console.print(f"written to {path}")


def print_lowerings(entries: list[Entry], console: Console) -> None:
    """One row for each shape and direction."""
    table = Table(title="Milliseconds of grouped convolutions, the fastest way first")
    for column in ("network", "operation", "shape", "direction", "ways"):
        table.add_column(column)
    for e in entries:
        medians = sorted((spread["median"], way) for way, spread in e["milliseconds"].items())
        shape = f"{e['batch']} × {e['side']}², {e['inputs']} → {e['outputs']}, {e['groups']} groups"
        ways = ", ".join(f"{way} {median:.2f}" for median, way in medians)
        table.add_row(e["model"], e["operation"], shape, e["direction"], ways)
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    parser.add_argument("--models", nargs="+", default=["cdnv2_a", "cdnv2_c"], metavar="NAME", help="whose shapes")
    parser.add_argument("--batch", type=positive, default=16, metavar="N", help="images (default 16)")
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="float32", help="(default float32)")
    add_measuring(parser)
    return run(parser, lowerings, arguments)


if __name__ == "__main__":
    sys.exit(main())
