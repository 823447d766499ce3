"""Make Markdown tables from results and insert them between the comments that mark their place in a document."""

from collections.abc import Iterable, Sequence
from typing import Any

from cdnv2_jax.errors import UserError


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replaced(text: str, start: str, end: str, contents: str, *, document: str) -> str:
    """Replace the text between the comments `start` and `end` of a document; UserError when it lacks them."""
    before, found_start, rest = text.partition(start)
    _, found_end, after = rest.partition(end)
    if not found_start or not found_end:
        raise UserError(f"{document} lacks the comments {start!r} and {end!r}, between which the table goes")
    return f"{before}{start}\n{contents}\n{end}{after}"


def figure(milliseconds: float) -> str:
    """Format milliseconds: "0.4", "9.6", "27", "3312"."""
    return f"{milliseconds:.1f}" if milliseconds < 10 else f"{milliseconds:.0f}"


def machine_line(machine: dict[str, Any]) -> str:
    """Return the line before a table of milliseconds: machine, versions, date."""
    names = {"jax": "JAX", "torch": "PyTorch", "onnxruntime": "ONNX Runtime"}
    found = {names[key]: version for key, version in machine["versions"].items() if key in names and version}
    versions = [f"{name} {version.partition('+')[0]}" for name, version in found.items()]
    where = f"{machine['cores']} cores of an {machine['processor']}"
    return f"Milliseconds on {where} (float32, {', '.join(versions)}, {machine['date']}):"
