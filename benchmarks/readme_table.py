"""Write the README's table of timings from the results files, between its two comments.

    python -m benchmarks.readme_table [--results benchmarks/results/cpu_2_cores] [--check]

--check writes nothing and exits with status 1 if the README is not up to date.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.comparison import OURS
from benchmarks.floors import Floor, floor_milliseconds
from benchmarks.markdown import figure, machine_line, replaced, table
from benchmarks.options import add_results, make_parser, run
from benchmarks.results import Entry, read_results
from benchmarks.tables import extremes, title_of

SCRIPT = "readme_table"
README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- speeds: python -m benchmarks.readme_table -->", "<!-- end of speeds -->"
WORKS = {"inference": "{model} {form}", "training": "{model} training step, {form}"}
"""Results file → titles of its entries."""


class OutOfDate(Exception):
    """The README's table is not that of the results files."""


def section(results: Path) -> str:
    """Make the text between the comments: the machine, and one table of all works."""
    records = {work: read_results(results / f"{work}.json") for work in WORKS}
    rows = [
        (WORKS[work].format(**entry), entry, record["rates"])
        for work, record in records.items()
        for entry in record["entries"]
    ]
    others = _in_order([name for _, entry, _ in rows for name in entry["ratios"]])
    header = ["work", "batch", *map(title_of, [OURS, *others]), "fastest other ÷ ours (lowest to highest)", "floor"]
    cells = [[name, *_cells(entry, others, rates)] for name, entry, rates in rows]
    return f"{_machines(list(records.values()))}\n\n{table(header, cells)}"


def _in_order(names: list[str]) -> list[str]:
    """Remove duplicates, keeping the order."""
    return list(dict.fromkeys(names))


def _cells(entry: Entry, others: list[str], rates: dict[str, float]) -> list[str]:
    medians = {name: spread["median"] for name, spread in entry["milliseconds"].items()}
    floor = floor_milliseconds(Floor(entry["multiply_adds"], entry["floor_bytes"]), rates)
    return [
        str(entry["batch"]),
        *(figure(medians[name]) if name in medians else "" for name in [OURS, *others]),
        _beside_fastest(entry),
        figure(max(floor)),
    ]


def _beside_fastest(entry: Entry) -> str:
    """Format the ratio of the fastest other implementation: "1.10 (0.92 to 2.01)"."""
    theirs = {name: entry["milliseconds"][name]["median"] for name in entry["ratios"] if name != "ours_masked"}
    if not theirs:
        return ""
    ratio = entry["ratios"][min(theirs, key=lambda name: theirs[name])]
    return f"{ratio['median']:.2f} ({extremes(ratio)})"


def _machines(records: list[dict[str, Any]]) -> str:
    """Describe the machine in one line, or in one line per work where they differ."""
    return "\n".join(_in_order([machine_line(record["machine"]) for record in records]))


def updated(readme: str, section: str) -> str:
    """Insert the section into the README's text; UserError when its comments are missing."""
    return replaced(readme, START, END, section, document="the README")


def readme_table(options: argparse.Namespace, console: Console) -> None:
    """Write or check the table."""
    text = options.readme.read_text(encoding="utf-8")
    new = updated(text, section(options.results))
    if options.check:
        if new != text:
            raise OutOfDate
        return
    options.readme.write_text(new, encoding="utf-8")
    console.print(f"written to {options.readme}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    add_results(parser)
    parser.add_argument("--readme", type=existing_file, default=README, metavar="FILE", help="(default: the project's)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with status 1 if out of date")
    try:
        return run(parser, readme_table, arguments)
    except OutOfDate:
        print(f"README.md is not up to date: {parser.prog}", file=sys.stderr)
        return 1


def existing_file(text: str) -> Path:
    """Parse the path of an existing file, for argparse."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
