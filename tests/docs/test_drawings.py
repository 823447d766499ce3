"""The drawings of docs/concepts.md show what the code does."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs import drawings
from tests.docs.markdown import ROOT, links
from tests.tables import table


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("images")
    assert drawings.main(["--images", str(directory)]) == 0
    return directory


def words(picture: Path) -> list[str]:
    """All text in an SVG file."""
    return [node.text or "" for node in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")]


@table("name", list(drawings.DRAWINGS))
def test_what_is_shown_is_what_would_be_drawn(name: str, drawn: Path) -> None:
    """If not: python -m docs.drawings."""
    assert words(ROOT / "docs" / "images" / name) == words(drawn / name)
    assert f"images/{name}" in links(ROOT / "docs" / "concepts.md")


def test_connections(drawn: Path) -> None:
    """Each stage takes a quarter of both masks."""
    counts = [word for word in words(drawn / "connections.svg") if "connections" in word]
    assert counts == [f"{left} of 128 connections" for left in (128, 96, 64, 32) for _ in range(2)]


def test_kernels() -> None:
    """A quarter of the weights is left, the condensed ones being the same in blocks on the diagonal."""
    figure = drawings.draw_condensing()
    pictures: list[Any] = [axes.images[0].get_array() for axes in figure.axes]
    whole, masked, blocks = (picture.filled(np.nan) for picture in pictures)
    assert [int(np.isfinite(values).sum()) for values in (whole, masked, blocks)] == [1024, 256, 256]
    kept = np.isfinite(masked)
    assert np.array_equal(masked[kept], whole[kept])
    assert np.array_equal(np.sort(masked[kept]), np.sort(blocks[np.isfinite(blocks)]))
    assert np.array_equal(np.isfinite(blocks), np.kron(np.eye(4), np.ones((8, 8))) == 1)


@table("name", list(drawings.DRAWINGS))
def test_legible_on_any_page(name: str, drawn: Path) -> None:
    """Dark text on a white ground of the picture's own."""
    svg = (drawn / name).read_text(encoding="utf-8")
    ground = svg.split('<g id="patch_1">')[1].split("</g>")[0]
    assert "fill: #ffffff" in ground
