"""Which lowering of each operation is fastest on this machine? Writes the table that layers choose by.

    python -m benchmarks.lowerings                       # prints what it measures
    python -m benchmarks.lowerings --write               # and puts it into cdnv2_jax/layers/lowerings.json

Peers: the lowerings of one operation (`cdnv2_jax.layers.lowering.KINDS`), timed in turn in one process, at the shapes
of the last dense layer of every block; whole condensed networks by kernel and by layers. Rows of the other back ends
stay.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.machine import describe
from cdnv2_jax import condense, create_model, prune
from cdnv2_jax.evaluation import compiled_forward
from cdnv2_jax.layers.grouped_conv import grouped_conv, possible_lowerings
from cdnv2_jax.layers.grouped_pointwise import grouped_pointwise
from cdnv2_jax.layers.lowering import KINDS, TABLE, override
from cdnv2_jax.models.registry import model_entry
from cdnv2_jax.report.latency import milliseconds_per_call

MODELS = ("cdnv2_a", "cdnv2_c", "cdnv2_cifar_110")
FORWARD_BATCHES = (1, 32)
GRADIENT_BATCH = 8

Row = dict[str, Any]


def median_times(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median milliseconds of each call, to three digits."""
    times = milliseconds_per_call(calls, rounds=15, seconds=2)
    return {name: float(f"{statistics.median(values):.3g}") for name, values in times.items()}


def operation_rows(kind: str, side: int, inputs: int, outputs: int, groups: int) -> Iterator[Row]:
    """One row per batch size, each with one direction's times."""
    if kind == "grouped_conv":
        kernel, names = jnp.ones((3, 3, inputs // groups, outputs)), tuple(possible_lowerings(groups))
    else:
        kernel, names = jnp.ones((groups, inputs // groups, outputs // groups)), KINDS[kind]

    def forward(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
        if kind == "grouped_conv":
            return lambda x, kernel: grouped_conv(x, kernel, groups, lowering=name)
        return lambda x, kernel: grouped_pointwise(x, kernel, lowering=name)

    def loss(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
        return lambda x, kernel: jnp.square(forward(name)(x, kernel)).sum()

    def row(direction: str, batch: int, functions: dict[str, Callable[..., Any]]) -> Row:
        x = jnp.ones((batch, side, side, inputs))
        calls = {name: partial(jax.jit(function), x, kernel) for name, function in functions.items()}
        shape = {"batch": batch, "side": side, "inputs": inputs, "outputs": outputs, "groups": groups}
        return {"kind": kind, "shape": shape, direction: median_times(calls)}

    for batch in FORWARD_BATCHES:
        yield row("forward", batch, {name: forward(name) for name in names})
    yield row("gradient", GRADIENT_BATCH, {name: jax.grad(loss(name), argnums=(0, 1)) for name in names})


def layer_rows(name: str) -> Iterator[Row]:
    """Both kinds of convolution, at the last layer of every block."""
    entry = model_entry(name)
    a = entry.architecture
    last = {block: (channels, growth) for block, _, channels, growth in a.dense_layers()}
    for block, (channels, growth) in last.items():
        side, wide = a.map_side(block, entry.image_size), a.bottleneck * growth
        yield from operation_rows("grouped_conv", side, wide, growth, a.conv_groups)
        kept = channels // a.lgc_factor * a.lgc_groups
        yield from operation_rows("grouped_pointwise", side, kept, wide, a.lgc_groups)


def network_rows(name: str) -> Iterator[Row]:
    """The whole condensed network, by kernel and by layers."""
    entry = model_entry(name)
    a = entry.architecture
    model = create_model(name, rngs=nnx.Rngs(0))
    model.eval()
    prune(model, a.condensation_stages)
    forward = compiled_forward(condense(model))
    for batch in FORWARD_BATCHES:
        images = jnp.ones((batch, entry.image_size, entry.image_size, 3))

        def call(lowering: str, images: jax.Array = images) -> jax.Array:
            with override(condensed_block=lowering):
                return forward(images)

        names = KINDS["condensed_block"] if jax.default_backend() == "cpu" else ("layers",)
        times = median_times({lowering: partial(call, lowering) for lowering in names})
        side = a.map_side(0, entry.image_size)
        shape = {"batch": batch, "side": side, "inputs": a.stem_channels, "outputs": a.out_channels}
        yield {"kind": "condensed_block", "shape": {**shape, "groups": a.lgc_groups}, "forward": times}


def write(rows: Sequence[Row]) -> None:
    """Replaces this back end's part of the table: one line per row, so that changes are seen."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    table[jax.default_backend()] = {"machine": describe(), "rows": rows}
    parts = []
    for platform, part in sorted(table.items()):
        lines = ",\n".join(f"   {json.dumps(row)}" for row in part["rows"])
        parts.append(f' "{platform}": {{\n  "machine": {json.dumps(part["machine"])},\n  "rows": [\n{lines}\n  ]\n }}')
    TABLE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Which lowering of each operation is fastest on this machine?")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--write", action="store_true", help=f"replace this back end's rows in {TABLE.name}")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        for measure in (layer_rows, network_rows):
            for row in measure(name):
                print(json.dumps(row), flush=True)
                if row not in rows:
                    rows.append(row)
    if options.write:
        write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
