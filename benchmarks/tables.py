"""Print comparisons as tables in the terminal."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.comparison import OURS
from benchmarks.floors import Floor, floor_milliseconds
from benchmarks.peers import PEERS
from benchmarks.results import Entry


def print_comparison(title: str, entries: list[Entry], rates: dict[str, float], console: Console) -> None:
    """Print a block of rows per entry: ours, then all others with their ratio to it."""
    table = Table(title=f"{title} (ratio above 1: ours is faster)")
    table.add_column("work")
    for column in ("ms", "ratio", "lowest to highest"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in entries:
        table.add_row(work(entry), style="bold")
        for row in rows(entry, rates):
            table.add_row(*row)
        table.add_section()
    console.print(table)
    for entry in entries:
        for name, reason in entry["refused"].items():
            console.print(f"not measured: {work(entry)}, {title_of(name)}: {reason}")


def rows(entry: Entry, rates: dict[str, float]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of one entry: ours, the others, the floor."""
    milliseconds = entry["milliseconds"]
    yield f"  {title_of(OURS)}", f"{milliseconds[OURS]['median']:.1f}", "", ""
    for name, ratio in entry["ratios"].items():
        cells = f"{milliseconds[name]['median']:.1f}", f"{ratio['median']:.2f}", extremes(ratio)
        yield f"  {title_of(name)}", *cells
    compute, memory = floor_milliseconds(Floor(entry["multiply_adds"], entry["floor_bytes"]), rates)
    yield "  floor: compute; memory", f"{compute:.1f}; {memory:.1f}", "", ""


def title_of(name: str) -> str:
    """Return the title of a contender."""
    titles = {OURS: "ours", "ours_masked": "ours, masked"}
    return titles.get(name) or (PEERS[name].title if name in PEERS else name)


def work(entry: Entry) -> str:
    """Return the title of an entry: "cdnv2_a condensed, 32 × 224 px"."""
    return f"{entry['model']} {entry['form']}, {entry['batch']} × {entry['image_size']} px"


def extremes(ratio: dict[str, Any]) -> str:
    """Format lowest and highest: "0.92 to 2.01"."""
    return f"{ratio['lowest']:.2f} to {ratio['highest']:.2f}"
