"""Drawings in the colours of the page."""

from collections.abc import Callable
from typing import Any

from cdnv2_jax.report.inline_svg import INK, MUTED, inline_svg
from cdnv2_jax.report.page import Drawing

COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    **{"#4477aa": "var(--blue)", "#cc6677": "var(--red)", "#228833": "var(--green)", "#aa8800": "var(--yellow)"},
    **{"#666666": "var(--muted)", "#d9480f": "var(--heat)"},
}
"""Colour that a drawing has on white → what `page.css` makes of it."""

WIDTH = 5.0
"""Inches: so much that letters have ten pixels on a phone."""


def drawing(draw: Callable[[Any], None], *, key: str, height: float, label: str, caption: str) -> Drawing:
    """What `draw` draws on a Matplotlib figure, `height` inches high; `key` is its own on the page."""
    svg = inline_svg(draw, width=WIDTH, height=height, colours=COLOURS, prefix=key)
    return Drawing(svg, label, caption)
