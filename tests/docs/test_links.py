"""Links of the README and the documents lead somewhere, pictures are there, and the index names every page."""

from pathlib import Path

from markdown_it import MarkdownIt

from tests.docs.markdown import ALL_PAGES, ROOT, anchors, links
from tests.tables import table

PICTURES = {".png": b"\x89PNG", ".svg": b"<?xml"}


@table("page", ALL_PAGES)
def test_links(page: Path) -> None:
    broken = []
    for target in links(page):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        known = file.exists() and file.resolve().is_relative_to(ROOT)
        if not known or (anchor and anchor not in anchors(file.resolve())):
            broken.append(target)
        if file.suffix in PICTURES and file.exists():
            assert file.read_bytes().startswith(PICTURES[file.suffix]), target
    assert not broken


def test_index_has_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    named = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
    assert {page for page in ALL_PAGES if page != index} <= named


def test_every_picture_is_shown() -> None:
    shown = {(page.parent / target).resolve() for page in ALL_PAGES for target in links(page)}
    assert set((ROOT / "docs" / "images").iterdir()) <= shown


@table("page", ALL_PAGES)
def test_tables_are_whole(page: Path) -> None:
    """A blank line in a table, or a row with too few cells, leaves a paragraph that looks like a row."""
    parsed = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    loose = [token.content for token in parsed if token.type == "inline" and token.content.startswith("| ")]
    assert not loose


def test_anchors_are_githubs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `two`\n\n## It's: 3×3!\n\n## again\n\n## Again\n\n### array_record: one, a few\n")
    assert anchors(page) == {"one-two", "its-33", "again", "again-1", "array_record-one-a-few"}
