"""The page as a browser's parser sees it: whole, by itself, and with all text escaped."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cdnv2_jax.report.page as page_module
from cdnv2_jax.report.figures import config_section, figures_section
from cdnv2_jax.report.mistakes import Predictions, mistakes_section
from cdnv2_jax.report.page import INK, Drawing, Photograph, Section, Table, image_uri, inline_svg, render_page
from cdnv2_jax.report.published import classifier_points, published_section
from tests.report.html_page import HtmlPage

EVIL = (
    '</style></table>"\'><script src="//evil.example/x.js">alert(1)</script><img src=x onerror=alert(2)>$\\frac{&amp;'
)
PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def test_all_text_is_escaped() -> None:
    """Wherever text goes in, it comes out as that text and nothing else."""
    section = Section(
        "one", EVIL, [EVIL], [Table(EVIL, [EVIL], [[EVIL]])], [Drawing("<svg></svg>", EVIL, EVIL)],
        [Photograph(image_uri(PIXELS, longest=9), EVIL, EVIL)],
    )  # fmt: skip
    page = HtmlPage(render_page(EVIL, EVIL, [section]))
    assert page.faults == []
    # Title, heading, subtitle, link, heading, paragraph, caption, head, cell, two captions.
    assert page.text.count(EVIL) == 11
    assert [attributes.get("aria-label") or attributes.get("alt") for _, attributes in page.tags].count(EVIL) == 3


def test_evil_names_and_configs() -> None:
    """In drawings too, where they pass through Matplotlib's letters."""
    images, labels, told = np.array([[0, 1, 2], [0, 1, 1], [1, 1, 0]])
    predictions = Predictions(images, labels, told, np.array([0.9, 0.8, 0.7]))
    sections = [
        figures_section({EVIL: {EVIL: EVIL, "accuracy": float("nan")}, "stages_passed": [EVIL]}, [EVIL]),
        mistakes_section(predictions, [EVIL, "猫\n\x07 two"], lambda index: PIXELS, [EVIL]),
        config_section({EVIL: EVIL, "data.mean": [0.5, 0.5]}),
    ]
    page = HtmlPage(render_page("report", "of nothing", sections))
    assert page.faults == []
    assert page.text.count(EVIL) > 10


def test_characters_that_hide_or_reorder_text() -> None:
    page = HtmlPage(render_page("\u202egpj.exe", "\x1b[2J", [Section("a", "b", ["\udce9\n\x00"])]))
    assert [text in page.text for text in ("\\u202egpj.exe", "\\x1b[2J", "\\udce9\\n\\x00")] == [True] * 3


def test_what_a_page_must_not_hold_is_seen() -> None:
    """The checks of these tests find what they are for."""
    faulty = (
        '<html><div id="a"><p id="a"></div><img src="http://x/y.png"><script></script><a href="#b" onclick="c()">d</a>'
        '<svg><path clip-path="url(#p)"/><use xlink:href="other.svg#q"/></svg><style>@import "x"</style>'
    )
    found = " | ".join(HtmlPage(faulty).faults)
    for fault in (
        *("<html> is never", "id a twice", "</div> closes nothing", "src leads to 'http://x/y.png'", "<script>"),
        *("without alternative text", "#b is nowhere", "#p is nowhere", "code in onclick", "other.svg", "@import"),
        "no doctype",
    ):
        assert fault in found, fault


def test_for_phones_and_both_schemes() -> None:
    html = render_page("report", "of nothing", [])
    page = HtmlPage(html)
    metas = {attributes.get("name"): attributes.get("content") for tag, attributes in page.tags if tag == "meta"}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    assert metas["color-scheme"] == "light dark" and "prefers-color-scheme: dark" in html
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in page.tags)


def _variables(css: str) -> dict[str, np.ndarray]:
    return {
        name: np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)])
        for name, code in re.findall(r"--(\w+): #(\w{6})", css)
    }


def _luminance(colour: np.ndarray) -> float:
    """Relative luminance, as WCAG 2.1 defines it."""
    share = colour / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(scheme: int) -> None:
    """4.5 to 1 for letters, 3 to 1 for lines, on both grounds (WCAG 2.1, AA)."""
    css = (Path(page_module.__file__).parent / "page.css").read_text()
    colours = _variables(re.findall(r":root \{(.*?)\}", css, re.DOTALL)[scheme])
    for ground in ("paper", "panel"):
        for name, least in (
            *((name, 4.5) for name in ("ink", "muted", "link")),
            *((name, 3.0) for name in ("blue", "red", "green", "yellow", "heat")),
        ):
            low, high = sorted((_luminance(colours[name]), _luminance(colours[ground])))
            assert (high + 0.05) / (low + 0.05) >= least, (name, ground)


def test_links_lead_to_all_sections() -> None:
    page = HtmlPage(render_page("report", "of nothing", [Section(key, key.upper()) for key in ("one", "two")]))
    assert page.faults == []
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == ["#one", "#two"]


def _draw(figure: Any) -> None:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#4477aa", label="a <b> & $c")
    axes.imshow(np.eye(2), interpolation="none")
    axes.legend()
    axes.set_title("猫 $\\frac{1}{")


def test_drawings_are_whole_and_in_the_page_s_colours() -> None:
    colours = {INK: "var(--ink)", "#4477aa": "var(--blue)"}
    one, two = (inline_svg(_draw, width=4, height=3, colours=colours, prefix=prefix) for prefix in ("one", "two"))
    tree = ElementTree.fromstring(one.replace("<svg", '<svg xmlns:xlink="x"', 1))
    texts = ["".join(element.itertext()) for element in tree.iter() if element.tag.endswith("text")]
    assert "a <b> & $c" in texts and "猫 $\\frac{1}{" in texts
    assert "stroke: var(--blue)" in one and "var(--ink)" in one and INK not in one and "#4477aa" not in one
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    assert HtmlPage("<!DOCTYPE html>" + one + two).faults == []
    assert one == inline_svg(_draw, width=4, height=3, colours=colours, prefix="one")


@pytest.mark.parametrize(("side", "kind"), [(16, "png"), (64, "png"), (65, "jpeg"), (900, "jpeg")])
def test_images(side: int, kind: str) -> None:
    uri = image_uri(np.zeros((side, side // 2, 3), np.uint8), longest=100)
    assert uri.startswith(f"data:image/{kind};base64,") and len(uri) < 2000


@pytest.mark.parametrize("data_set", ["imagenet", "cifar10", "cifar100"])
@pytest.mark.parametrize("measured", [None, 30.25])
def test_published(data_set: str, measured: float | None) -> None:
    points = classifier_points(data_set)
    section = published_section(points, where="there", figure_name="top-1 error, %", own=(45.87, measured))
    page = HtmlPage(render_page("report", "of nothing", [section]))
    assert page.faults == []
    for point in points:
        assert point.name in page.text and f"{point.value:g}" in page.text and point.source in page.text
    assert ("30.25" in page.text) == (measured is not None)
    assert {"imagenet": 9, "cifar10": 9, "cifar100": 4}[data_set] == len(points)
