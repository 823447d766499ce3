"""Matplotlib's drawings as SVG inside of a page, in the page's own colours and letters."""

import io
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

INK, MUTED = "#222222", "#999999"
"""How the drawings' text and lines, and what is of less weight, are coloured; a page has its own colours for them."""

TEXT_POINTS = 10

STYLE: Mapping[str, Any] = {
    **{f"{what}.color": INK for what in ("text", "xtick", "ytick")},
    **{"axes.edgecolor": INK, "axes.labelcolor": INK, "grid.color": MUTED},
    **{"figure.facecolor": "none", "axes.facecolor": "none", "legend.frameon": False},
    **{"font.size": TEXT_POINTS, "axes.titlesize": TEXT_POINTS + 1, "legend.fontsize": TEXT_POINTS - 1},
    # Letters stay letters; names are names, even with dollar signs in them.
    **{"svg.fonttype": "none", "text.parse_math": False},
}


def inline_svg(
    draw: Callable[[Any], None], *, width: float, height: float, colours: Mapping[str, str], prefix: str
) -> str:
    """An `<svg>` element of what `draw` draws on a Matplotlib figure.

    Args:
      draw: takes the figure; it uses `INK`, `MUTED` and the keys of `colours` as colours.
      width, height: inches; text is `TEXT_POINTS` points high at that size.
      colours: colour as drawn, "#rrggbb", → the CSS that takes its place, such as "var(--ink)".
      prefix: of all ids within, so that no two drawings of a page share any.
    """
    import matplotlib
    from matplotlib.figure import Figure

    written = io.StringIO()
    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": prefix}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Signs that Matplotlib's own font lacks are drawn by the browser.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", metadata=nothing, transparent=True)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    # What a page needs none of, and addresses that look as if something were fetched from there.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (xmlns(:xlink)?|version|width|height|id)="[^"]*"', "", opening)
    rest = re.sub(r'\bid="', f'id="{prefix}-', rest)
    rest = rest.replace('"#', f'"#{prefix}-').replace("url(#", f"url(#{prefix}-")
    for drawn, css in colours.items():
        rest = re.sub(rf"(fill|stroke): {drawn}\b", rf"\1: {css}", rest)
    return f'{opening} aria-hidden="true">{rest}'
