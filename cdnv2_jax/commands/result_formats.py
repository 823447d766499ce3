"""Results of images as `predict` prints them: text, JSON lines, CSV, or COCO's results format."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from cdnv2_jax.detection.predict import DetectedImage
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


class Printer:
    """Prints the results of images in one format, as they come."""

    def start(self, columns: Sequence[str]) -> None:
        """Print what precedes all results, whose rows have these columns."""

    def result(self, result: Any) -> None:
        """Print a `Result`."""
        raise NotImplementedError

    def end(self) -> None:
        """Print what follows them."""


class Text(Printer):
    """Lines for people."""

    def result(self, result: Result) -> None:
        say(*result.to_text())


class JsonLines(Printer):
    """A JSON object per image, one per line."""

    def result(self, result: Result) -> None:
        say(json_line(result.to_json()))


class Csv(Printer):
    """A table with a header."""

    def start(self, columns: Sequence[str]) -> None:
        say(csv_line(columns))

    def result(self, result: Result) -> None:
        say(*map(csv_line, result.to_rows()))


class Coco(Printer):
    """COCO's results format, a JSON list of detections, each in a line."""

    def __init__(self):
        self._before = "["

    def result(self, result: DetectedImage) -> None:
        for one in result.to_coco():
            say(self._before + json_line(one))
            self._before = ","

    def end(self) -> None:
        say("]" if self._before == "," else "[]")


def json_line(values: Mapping[str, Any]) -> str:
    """Return a JSON object as one line.

    What a terminal would obey, and bytes of a name that are not UTF-8, become JSON's own escapes.
    """
    line = json.dumps(values, ensure_ascii=sys.stdout.encoding.lower() != "utf-8")
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def csv_line(cells: Iterable[object]) -> str:
    """Return a row as a line of CSV, without its end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


FORMATS: Mapping[str, type[Printer]] = {"text": Text, "json": JsonLines, "csv": Csv, "coco": Coco}
