"""One self-contained HTML page: sections of text, tables, inline SVG drawings and embedded images."""

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
from cdnv2_jax.terminal import escaped

SMALL = 64  # pixels; smaller images are embedded losslessly, larger ones as JPEG


def image_uri(pixels: np.ndarray, *, longest: int) -> str:
    """Encode an image as a "data:" URI, small ones as PNG, others as JPEG.

    Args:
      pixels: uint8 [h, w, 3].
      longest: side in pixels to which larger images are shrunk.
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
"""Colours of text and lines, and of secondary elements, as drawn; the page's style sheet replaces them."""

TEXT_POINTS = 10

STYLE: Mapping[str, Any] = {
    **{f"{what}.color": INK for what in ("text", "xtick", "ytick")},
    **{"axes.edgecolor": INK, "axes.labelcolor": INK, "grid.color": MUTED},
    **{"figure.facecolor": "none", "axes.facecolor": "none", "legend.frameon": False},
    **{"font.size": TEXT_POINTS, "axes.titlesize": TEXT_POINTS + 1, "legend.fontsize": TEXT_POINTS - 1},
    # Text stays text, and names may contain dollar signs.
    **{"svg.fonttype": "none", "text.parse_math": False},
}


def inline_svg(
    draw: Callable[[Any], None], *, width: float, height: float, colours: Mapping[str, str], prefix: str
) -> str:
    """Render what `draw` draws on a Matplotlib figure as an `<svg>` element.

    Args:
      draw: takes the figure; uses `INK`, `MUTED` and the keys of `colours` as colours.
      width: inches; text is `TEXT_POINTS` points high at that size.
      height: inches.
      colours: colour as drawn, "#rrggbb" → the CSS that replaces it, such as "var(--ink)".
      prefix: prefix of all ids inside, unique on the page.
    """
    import matplotlib
    from matplotlib.figure import Figure

    written = io.StringIO()
    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": prefix}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Glyphs that Matplotlib's font lacks are drawn by the browser.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", metadata=nothing, transparent=True)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    # Not needed on a page, and its URLs look like external resources.
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
    """A drawing on the page.

    Attributes:
      svg: an `<svg>` element.
      label: what it shows, for screen readers.
      caption: how to read it.
    """

    svg: str
    label: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Photograph:
    """An image on the page.

    Attributes:
      uri: a "data:" URI.
      label: what it shows, for screen readers.
      caption: below the image.
      pixelated: whether to enlarge it without interpolation.
    """

    uri: str
    label: str
    caption: str
    pixelated: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table on the page.

    Attributes:
      caption: above the table.
      head: column titles.
      rows: cells; the first of each row is its title.
      note: below the table.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
      key: its id, one word.
      title: heading.
      text: paragraphs.
      tables: after the text.
      drawings: after the tables.
      photographs: after the drawings.
      above_photographs: a paragraph before them.
    """

    key: str
    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    photographs: Sequence[Photograph] = ()
    above_photographs: str = ""


def render_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Render the whole page. All text is escaped, except for `Drawing.svg`, which `inline_svg` makes."""
    import jinja2

    here = Path(__file__).parent
    options: dict[str, Any] = {"autoescape": True, "finalize": _shown, "undefined": jinja2.StrictUndefined}
    options |= {"trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(here), **options)
    style = (here / STYLESHEET).read_text(encoding="utf-8")
    return environment.get_template(TEMPLATE).render(title=title, subtitle=subtitle, sections=sections, style=style)


def _shown(value: Any) -> Any:
    """Return text with escapes for what would reorder or hide parts of the page; our own markup as it is."""
    return escaped(value) if type(value) is str else value


def write_page(path: Path, page: str) -> Path:
    """Write the page atomically; UserError if that fails."""
    with replacing(path) as scratch:
        scratch.write_text(page, encoding="utf-8", errors="replace")  # JSON may hold lone surrogates
    return path


COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    **{"#4477aa": "var(--blue)", "#cc6677": "var(--red)", "#228833": "var(--green)", "#aa8800": "var(--yellow)"},
    **{"#666666": "var(--muted)", "#d9480f": "var(--heat)"},
}
"""Colour as drawn on white → variable of `page.css`."""

WIDTH = 4.3
"""Inches; at this width text is ten pixels high on a phone."""


def drawing(draw: Callable[[Any], None], *, key: str, height: float, label: str, caption: str) -> Drawing:
    """Make a `Drawing` of what `draw` draws on a figure `height` inches high; `key` is unique on the page."""
    svg = inline_svg(draw, width=WIDTH, height=height, colours=COLOURS, prefix=key)
    return Drawing(svg, label, caption)
