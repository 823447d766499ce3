"""Pixels as an address that holds them, so that a page needs no other file."""

import base64
import dataclasses
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cdnv2_jax.files import replacing

SMALL = 64  # pixels; images of that size are kept as they are, larger ones need not be exact


def image_uri(pixels: np.ndarray, *, longest: int) -> str:
    """The image as a "data:" address: a PNG of a small one, a JPEG of any other.

    Args:
      pixels: uint8 [h, w, 3].
      longest: side in pixels; a larger image is made smaller.
    """
    image, data = Image.fromarray(pixels), io.BytesIO()
    if max(image.size) <= SMALL:
        image.save(data, "png")
        kind = "png"
    else:
        image.thumbnail((longest, longest))
        image.save(data, "jpeg", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


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


TEMPLATE, STYLESHEET = "page.html.jinja", "page.css"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Attributes: svg, an `<svg>` element; label, what it shows, for who cannot see it; caption, how to read it."""

    svg: str
    label: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Photograph:
    """Attributes: uri, of the data itself; label, what it shows; caption; pixelated, whether it is enlarged pixels."""

    uri: str
    label: str
    caption: str
    pixelated: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Attributes: caption; head, of the columns; rows of as many cells, the first of which says what the row is."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page, shown in this order: text, tables, drawings, photographs.

    Attributes:
      key: of the links to it, a word. title, text: paragraphs.
    """

    key: str
    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    photographs: Sequence[Photograph] = ()


def render_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole file. All text is escaped; of `Drawing.svg` alone nothing is, which only `inline_svg` makes."""
    import jinja2

    here = Path(__file__).parent
    options = {"autoescape": True, "undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(here), **options)
    style = (here / STYLESHEET).read_text(encoding="utf-8")
    return environment.get_template(TEMPLATE).render(title=title, subtitle=subtitle, sections=sections, style=style)


def write_page(path: Path, page: str) -> Path:
    """Writes the file, all of it or nothing; UserError when it cannot be."""
    with replacing(path) as scratch:
        scratch.write_text(page, encoding="utf-8", errors="replace")  # JSON may hold what is no letter
    return path


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
