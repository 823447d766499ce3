"""One HTML page out of sections: all in one file that fetches nothing, readable by day and by night and on a phone."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cdnv2_jax.files import replacing

TEMPLATE, STYLE = "page.html.jinja", "page.css"


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
    style = (here / STYLE).read_text(encoding="utf-8")
    return environment.get_template(TEMPLATE).render(title=title, subtitle=subtitle, sections=sections, style=style)


def write_page(path: Path, page: str) -> Path:
    """Writes the file, all of it or nothing; UserError when it cannot be."""
    with replacing(path) as scratch:
        scratch.write_text(page, encoding="utf-8", errors="replace")  # JSON may hold what is no letter
    return path
