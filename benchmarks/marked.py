"""Sections of Markdown files that scripts write: what stands between two comments, everything else is by hand."""

from cdnv2_jax.errors import UserError


def with_section(text: str, start: str, end: str, section: str, *, what: str) -> str:
    """The text with `section` between the comments `start` and `end`.

    Args:
      text: of the whole file. start, end: the comments, which stay.
      what: the file, for the message.

    Raises:
      UserError: the comments are not there, in this order.
    """
    before, found_start, rest = text.partition(start)
    _, found_end, after = rest.partition(end)
    if not found_start or not found_end:
        raise UserError(f"{what} lacks the comments {start!r} and {end!r}, between which the table goes")
    return f"{before}{start}\n{section}\n{end}{after}"


def table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its header."""
    header, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rest])
