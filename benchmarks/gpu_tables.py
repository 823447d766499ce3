"""Bring what a GPU machine measured into the repository: results, lowering table, and the tables of docs/speed.md.

    python -m benchmarks.gpu_tables OUT/results/nvidia_h100_80gb_hbm3

Copies the results of `benchmarks/device.sh` to `benchmarks/results/`. The medians of `lowerings.json` replace the rows
of these shapes in the GPU's part of the lowering table (`cdnv2_jax/layers/lowerings.json`) and are marked "timed";
rows of other shapes are estimates by the compiler and stay. Images per second and differences from float64 replace the
text between the two comments in docs/speed.md.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.lowerings import table_row, write_table
from benchmarks.markdown import replaced, table
from benchmarks.options import make_parser, run
from benchmarks.results import COMMITTED, Entry, read_results
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import replacing
from cdnv2_jax.layers import lowering

SCRIPT = "gpu_tables"
DOCS = Path(__file__).parents[1] / "docs" / "speed.md"
START, END = "<!-- gpu: python -m benchmarks.gpu_tables -->", "<!-- end of gpu -->"
FILES = ("parity", "accelerator", "lowerings")
SIDES = {"ours": "ours", "torch_compile": "torch.compile", "torch": "PyTorch", "torch_max_autotune": "max-autotune"}


def gpu_tables(options: argparse.Namespace, console: Console) -> None:
    """Read, check, and only then write."""
    paths = {name: options.results / f"{name}.json" for name in FILES}
    records = {name: read_results(path) for name, path in paths.items() if path.is_file()}
    if not records:
        raise UserError(f"{options.results} has none of {', '.join(path.name for path in paths.values())}")
    try:
        elsewhere = [paths[name] for name, record in records.items() if record["machine"]["driver"] is None]
        contents = section(records)
        rows = [table_row(entry) | {"timed": True} for entry in records.get("lowerings", {}).get("entries", [])]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{options.results} has other results than those of benchmarks/device.sh: {error!r}") from error
    if elsewhere:
        raise UserError(f"{elsewhere[0]} was not measured on an NVIDIA GPU")
    text = replaced(DOCS.read_text(encoding="utf-8"), START, END, contents, document="docs/speed.md")
    for name, record in records.items():
        target = COMMITTED / options.results.resolve().name / f"{name}.json"
        with replacing(target) as file:
            file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        console.print(f"written to {target}")
    if rows:
        write_table(*beside_compiled(rows, records["lowerings"]["machine"]))
        console.print("written to the lowering table")
    with replacing(DOCS) as file:
        file.write_text(text, encoding="utf-8")
    console.print(f"written to {DOCS}")


def beside_compiled(rows: list[dict[str, Any]], machine: dict[str, Any]) -> tuple[Any, ...]:
    """Return what `write_table` needs: the timed rows, those of other shapes as they were, and where both are from."""
    old = json.loads(lowering.TABLE.read_text(encoding="utf-8")).get("gpu", {"machine": {}, "rows": []})
    timed = {row_key(row) for row in rows}
    kept = [row for row in old["rows"] if row_key(row) not in timed]
    source = {key: machine[key] for key in ("device", "driver", "versions", "date")}
    return [*rows, *kept], "gpu", {**old["machine"], "timed": source}


def row_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what identifies a row of the lowering table."""
    return row["kind"], *sorted(row["shape"].items())


def section(records: dict[str, dict[str, Any]]) -> str:
    """Make the text between the comments."""
    parts = [machine_line(next(iter(records.values()))["machine"])]
    if "accelerator" in records:
        entries = records["accelerator"]["entries"]
        sides = [side for side in SIDES if any(entry["side"] == side for entry in entries)]
        header = ["images per second, bfloat16", "batch", *(SIDES[side] for side in sides), "of the memory floor"]
        parts.append(table(header, speeds(entries, sides)))
        parts += failures(entries)
    if "parity" in records:
        entries = records["parity"]["entries"]
        parts += ["Differences from PyTorch in float64 on the CPU:", agreement(entries), *failures(entries)]
    return "\n\n".join(parts)


def failures(entries: list[Entry]) -> list[str]:
    """Return a list of what was refused or could not run, if there is something."""
    lines = [f"- {what(entry)}, {SIDES[entry['side']]}: {entry['failed']}" for entry in entries if "failed" in entry]
    return ["\n".join(lines)] if lines else []


def machine_line(machine: dict[str, Any]) -> str:
    """Return the line before the tables: card, driver, versions, date."""
    versions = machine["versions"]
    names = f"JAX {versions['jax']}, PyTorch {versions['torch']}, driver {machine['driver']}"
    return f"Measured on one {machine['device']} ({names}, {machine['date']}):"


def what(entry: Entry) -> str:
    """Return what an entry measured or compared."""
    how = f"batch {entry['batch']}" if "batch" in entry else entry["precision"]
    return f"{entry['model']} {entry['work']}, {how}"


def speeds(entries: list[Entry], columns: list[str]) -> Iterator[list[str]]:
    """Yield a row per model, work and batch: images per second of each side, and our share of the memory floor."""
    for model, work, batch in dict.fromkeys((e["model"], e["work"], e["batch"]) for e in entries):
        sides = {e["side"]: e for e in entries if (e["model"], e["work"], e["batch"]) == (model, work, batch)}
        rates = [cell(sides.get(side, {}), "images_per_second", ",.0f") for side in columns]
        yield [f"{model} {work}", str(batch), *rates, cell(sides.get("ours", {}), "share_of_floor", ".2f")]


def cell(values: dict[str, Any], key: str, form: str) -> str:
    """Format a value, or nothing where there is none."""
    return format(values[key], form) if key in values else ""


def agreement(entries: list[Entry]) -> str:
    """Make a table with a row per comparison of `benchmarks.parity`."""
    quantities = list(dict.fromkeys(name for entry in entries for name in entry.get("differences", {})))
    rows = []
    for entry in entries:
        found = [cell(entry.get("differences", {}), name, ".0e") for name in quantities]
        rows.append([f"{entry['model']} {entry['work']}", SIDES[entry["side"]], entry["precision"], *found])
    return table(["", "", "precision", *(name.replace("_", " ") for name in quantities)], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    parser.add_argument("results", type=Path, metavar="DIRECTORY", help="folder of a card, with its three files")
    return run(parser, gpu_tables, arguments)


if __name__ == "__main__":
    sys.exit(main())
