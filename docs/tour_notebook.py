"""Run examples/tour.ipynb and store its outputs in it.

    python -m docs.tour_notebook [--notebook examples/tour.ipynb]

Run it after a change to the notebook or to what it shows. Nothing is stored of the machine: no times of cells and no
versions. A cell that fails ends it with an error, and the file stays as it was.
"""

import argparse
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.options import run
from cdnv2_jax.commands.arguments import OneLineParser
from cdnv2_jax.files import replacing

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tour.ipynb"
EXECUTED = "executed_sources"
"""Key in the notebook's metadata: a hash of the cells that its outputs belong to."""
MEASURED = "measured"
"""Tag of cells whose numbers are of one machine and one run."""


def read(path: Path) -> Any:
    """Read a notebook as an `nbformat.NotebookNode`."""
    import nbformat

    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    """Return the cells of code, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def sources_hash(notebook: Any) -> str:
    """Return a hash of the code of all cells."""
    return hashlib.sha256(json.dumps([cell.source for cell in code_cells(notebook)]).encode()).hexdigest()


def execute(notebook: Any, directory: Path) -> None:
    """Run all cells in a new process in `directory`, and replace the notebook's outputs.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed; the message holds its traceback.
    """
    from nbclient import NotebookClient
    from traitlets.config import Config

    with tempfile.TemporaryDirectory() as sockets:
        # TCP, the default, would be open to other users of the machine.
        messages = {"transport": "ipc", "ip": f"{sockets}/kernel"}
        client = NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": str(directory)}},
            config=Config({"KernelManager": messages}),
        )
        client.execute()
    for cell in code_cells(notebook):
        cell.outputs = joined(cell.outputs)
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata[EXECUTED] = sources_hash(notebook)


def joined(outputs: Iterable[Any]) -> list[Any]:
    """Return the outputs with consecutive texts of one stream as one, as the timing of a run may have split them."""
    found: list[Any] = []
    for output in outputs:
        if found and output.output_type == found[-1].output_type == "stream" and output.name == found[-1].name:
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def printed(cell: Any) -> str:
    """Return the text that a cell printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(cell: Any) -> list[Any]:
    """Return the outputs of a cell that are pictures."""
    return [output for output in cell.outputs if "image/png" in output.get("data", ())]


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?%?")


def words_and_numbers(text: str) -> tuple[list[str], list[str]]:
    """Split a text into what is between its numbers, without spaces around them, and the numbers."""
    return [part.strip() for part in NUMBER.split(text)], NUMBER.findall(text)


def difference(ours: Any, theirs: Any, points: float = 3.0) -> str:
    """Return how what a cell printed differs between two runs, "" if it does not.

    Percentages may differ by `points`. In a cell with the tag `MEASURED` all numbers may differ.
    """
    (words, numbers), (other_words, other_numbers) = (words_and_numbers(printed(cell)) for cell in (ours, theirs))
    same = words == other_words and len(pictures(ours)) == len(pictures(theirs))
    if same and MEASURED not in ours.metadata.get("tags", ()):
        same = all(_close(a, b, points) for a, b in zip(numbers, other_numbers, strict=True))
    return "" if same else f"{printed(ours)!r} in one run, {printed(theirs)!r} in the other"


def _close(one: str, other: str, points: float) -> bool:
    if one.endswith("%") and other.endswith("%"):
        return abs(float(one[:-1]) - float(other[:-1])) <= points
    return one == other


def tour_notebook(options: argparse.Namespace, console: Console) -> None:
    """Run the notebook and write it."""
    import nbformat

    notebook = read(options.notebook)
    execute(notebook, options.notebook.parent)
    with replacing(options.notebook) as temporary:
        nbformat.write(notebook, temporary)
    console.print(f"written to {options.notebook}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = OneLineParser(
        prog="python -m docs.tour_notebook",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--notebook", type=Path, default=NOTEBOOK, metavar="FILE", help="(default: examples/tour.ipynb)"
    )
    return run(parser, tour_notebook, arguments)


if __name__ == "__main__":
    sys.exit(main())
