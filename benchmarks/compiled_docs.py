"""Write the tables of docs/accelerators.md from the rows of `benchmarks.compiled`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import replaced, table
from cdnv2_jax.errors import UserError

Row = dict[str, Any]

DOCS = Path(__file__).parents[1] / "docs" / "accelerators.md"
START, END = "<!-- compiled: make compiled -->", "<!-- end of compiled -->"
TARGETS = ("v5e", "v6e", "h100")


def in_docs(rows: Sequence[Row]) -> str:
    """Return the document's text with tables of these rows; UserError when there is no such document."""
    if not DOCS.is_file():
        raise UserError(f"--docs: there is no {DOCS}")
    parts = [source(rows), inference(rows), training(rows)] if rows else []
    contents = "\n\n".join(filter(None, parts))
    return replaced(DOCS.read_text(encoding="utf-8"), START, END, contents, document=str(DOCS))


def source(rows: Sequence[Row]) -> str:
    """Return the line before the tables: versions and dates."""
    versions = sorted({f"{package} {version}" for row in rows for package, version in row["versions"].items()})
    dates = sorted({row["date"] for row in rows})
    when = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
    return f"Compiled, not timed, in bfloat16 ({', '.join(versions)}; {when}):"


def inference(rows: Sequence[Row]) -> str:
    """Make the table of inference: a row for each network, batch and form that differs; "" if there is none."""
    found = _by(rows, ("condensed", "masked", "detect"), ("model", "batch", "work"))
    targets = [target for target in TARGETS if any(target in of for of in found.values())]
    header = ["network", "images", "form", *(text for one in targets for text in (f"{one}, ms", "layout"))]
    forms: dict[tuple[str, ...], list[str]] = {}
    for (model, batch, work), of in found.items():
        cells = [cell for target in targets for cell in _cells(of.get(target), [_time, _layout])]
        forms.setdefault((model, batch, *cells), []).append(work)
    lines = [[model, batch, ", ".join(works), *cells] for (model, batch, *cells), works in forms.items()]
    return table(header, lines) if lines else ""


def training(rows: Sequence[Row]) -> str:
    """Make the table of training steps: a row for each network and target; "" if there is none."""
    header = ["step", "devices", "images per device", "on", "ms", "images/s per device", "memory", "sent per step"]
    shown: list[Callable[[Row], str]] = [_time, _rate, _memory, _sent]
    lines = [
        [*what, target, *_cells(row, shown)]
        for what, found in _by(rows, ("train", "train_detector"), ("model", "devices", "batch")).items()
        for target, row in found.items()
    ]
    return table(header, lines) if lines else ""


def _by(rows: Sequence[Row], works: Sequence[str], fields: Sequence[str]) -> dict[tuple[str, ...], dict[str, Row]]:
    """Return {values of `fields`: {target: row}} of the rows in bfloat16 without special settings, sorted."""
    plain = [row for row in rows if row["work"] in works and not (row["overrides"] or row["flags"])]
    plain = [row for row in plain if row["dtype"] == "bfloat16"]
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in sorted(plain, key=lambda row: [row[field] for field in fields]):
        found.setdefault(tuple(f"{row[field]}" for field in fields), {})[row["target"]] = row
    return found


def _cells(row: Row | None, shown: Sequence[Callable[[Row], str]]) -> list[str]:
    """Return cells of a row; empty ones for none, "failed" for one that failed."""
    if row is None:
        return [""] * len(shown)
    return ["failed"] * len(shown) if "failed" in row else [one(row) for one in shown]


def _time(row: Row) -> str:
    unestimated = row.get("unestimated_milliseconds", 0.0)
    more = f" + {_figure(unestimated)}" if unestimated > 0.01 * row["milliseconds"] else ""
    return f"{_figure(row['milliseconds'])}{more}"


def _figure(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _layout(row: Row) -> str:
    return f"{100 * row['layout_share']:.0f} %"


def _rate(row: Row) -> str:
    return f"{row['images_per_second']:,.0f}"


def _memory(row: Row) -> str:
    return f"{row['memory']['peak'] / 1e9:.1f} GB"


def _sent(row: Row) -> str:
    return ", ".join(
        f"{one['bytes'] / 1e6:.1f} MB in {one['count']} {kind}" for kind, one in row["collectives"].items()
    )
