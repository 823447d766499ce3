"""Results of images as `predict` prints them: text, JSON lines or CSV."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from cdnv2_jax.terminal import say


class Result(Protocol):
    """What was found in an image."""

    def to_text(self) -> Iterable[str]:
        """Return lines for people."""
        ...

    def to_json(self) -> Mapping[str, Any]:
        """Return a JSON object."""
        ...

    def to_rows(self) -> Iterable[Sequence[object]]:
        """Return rows of a table."""
        ...


def print_text(result: Result) -> None:
    """Print the lines of a result."""
    say(*result.to_text())


def print_json(result: Result) -> None:
    """Print a result as a JSON object in one line.

    What a terminal would obey, and bytes of a name that are not UTF-8, become JSON's own escapes.
    """
    line = json.dumps(result.to_json(), ensure_ascii=sys.stdout.encoding.lower() != "utf-8")
    say(line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line))


def print_csv(result: Result) -> None:
    """Print the rows of a result."""
    say(*map(csv_line, result.to_rows()))


def csv_line(cells: Iterable[object]) -> str:
    """Return a row as a line of CSV, without its end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


FORMATS: Mapping[str, Callable[[Result], None]] = {"text": print_text, "json": print_json, "csv": print_csv}
