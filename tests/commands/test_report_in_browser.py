"""Pages in Chromium, with its network off: nothing is fetched, complains, is too wide, too small or too pale."""

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax.commands.main import main
from cdnv2_jax.report.detections import detections_section
from cdnv2_jax.report.figures import config_section, figures_section
from cdnv2_jax.report.page import render_page
from cdnv2_jax.report.precision import CURVES, ClassPrecision, Precision, precision_section
from cdnv2_jax.report.published import classifier_points, published_section
from tests.browser import SCHEMES, SIZES, Tab, browser_tab, find_browser

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome on this machine")

GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}

FAULTS = """
(() => {
  const faults = [], rgba = text => (text.match(/[0-9.]+/g) || []).map(Number);
  const luminance = colour => [0.2126, 0.7152, 0.0722].reduce((sum, weight, k) => {
    const share = colour[k] / 255;
    return sum + weight * (share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4);
  }, 0);
  const ground = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = rgba(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  if (document.documentElement.scrollWidth > innerWidth) faults.push("the page scrolls sideways");
  for (const image of document.images)
    if (!image.complete || !image.naturalWidth || !image.alt) faults.push("an image is broken or has no text");
  for (const svg of document.querySelectorAll("svg"))
    if (!svg.closest("[role=img][aria-label]")) faults.push("a drawing without text");
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || element.closest("style")) continue;
    const style = getComputedStyle(element), svg = element.ownerSVGElement;
    const both = [rgba(svg ? style.fill : style.color), ground(element)].map(luminance).sort((a, b) => a - b);
    if ((both[1] + 0.05) / (both[0] + 0.05) < 4.5) faults.push("too pale: " + text);
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    if (parseFloat(style.fontSize) * scale < 8) faults.push("too small: " + text);
    if (svg) {
      const [inner, outer] = [element.getBoundingClientRect(), svg.getBoundingClientRect()];
      if (inner.left < outer.left - 2 || inner.right > outer.right + 2) faults.push("cut off: " + text);
    }
  }
  return faults;
})()
"""
"""What is wrong on the page that is shown: contrast is that of WCAG 2.1, level AA; small letters are below 8 pixels."""


def _faults(tab: Tab) -> list[str]:
    """What is wrong on the page, and what the browser fetched or complained of."""
    found = list(tab.evaluate(FAULTS))
    for method, told in tab.events:
        if method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")):
            found.append(told["request"]["url"])
        if method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Network.loadingFailed"):
            found.append(f"{method}: {told}")
    return found


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser_tab() as opened:
        yield opened


def _check(tab: Tab, page: Path) -> None:
    """On a phone and a desktop, by day and by night."""
    for size in SIZES:
        for scheme in SCHEMES:
            tab.show(page, size, scheme)
            assert _faults(tab) == [], (size, scheme)
            assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == GROUNDS[scheme]


def test_classifier(smoke_run: Path, tmp_path: Path, tab: Tab) -> None:
    workdir = shutil.copytree(smoke_run, tmp_path / "run")
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["report", "--workdir", str(workdir)]) == 0
    _check(tab, workdir / "report.html")
    assert tab.evaluate("document.querySelectorAll('svg').length") == 10


def test_detector(tmp_path: Path, tab: Tab) -> None:
    """Sections that only detectors and published data sets have, with long names, many classes and large figures."""
    classes = [ClassPrecision(f"class {'W' * number}", 10**number, 0.5, 1.0, 0.0) for number in range(1, 9)]
    figures = {form: {"AP": 0.123456789, "multiply_adds": 10**14} for form in ("masked", "condensed", "live", "EMA")}
    sections = [
        figures_section({**figures, "truncated": 3}, ["word" * 100]),
        precision_section(Precision(dict.fromkeys(CURVES, [0.5] * 101), classes * 10)),
        detections_section([np.zeros((480, 900, 3), np.uint8), np.zeros((900, 80, 3), np.uint8)], []),
        published_section(classifier_points("imagenet"), where="ImageNet", figure_name="top-1 error, %", own=(50, 40)),
        config_section({"data.directory": "folder/" * 40, "x" * 90: None}),
    ]
    page = tmp_path / "page.html"
    page.write_text(render_page("D" * 80, "run in " + "path/" * 80, sections), encoding="utf-8")
    _check(tab, page)
    tab.show(page, "phone", "light")
    rows = "Math.max(...[...document.querySelectorAll('#published tbody tr')].map(row => row.offsetHeight))"
    assert tab.evaluate(rows) < 60  # pixels: the sources are not squeezed into a narrow column


def test_paper_is_white(tmp_path: Path, tab: Tab) -> None:
    """Also where the screen is dark."""
    page = tmp_path / "page.html"
    page.write_text(render_page("report", "of nothing", []), encoding="utf-8")
    for media, scheme in (("screen", "dark"), ("print", "light")):
        tab.show(page, "desktop", "dark")
        tab.send(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": "dark"}]
        )
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == GROUNDS[scheme]
    tab.send("Emulation.setEmulatedMedia", media="")


def test_what_is_wrong_is_seen(tmp_path: Path, tab: Tab) -> None:
    """The same checks on a page that does what ours must not."""
    page = tmp_path / "bad.html"
    page.write_text(
        '<!DOCTYPE html><meta name="viewport" content="width=device-width"><body style="background: white">'
        '<img src="http://example.com/a.png"><p style="width: 3000px">x</p><script>f()</script>'
        '<p style="color: #888">grey</p>'
        '<svg viewBox="0 0 900 9" width="300"><text font-size="12" x="880">tiny</text></svg>'
    )
    tab.show(page, "phone", "light")
    found = " | ".join(_faults(tab))
    for fault in (
        *("example.com", "ReferenceError", "sideways", "has no text", "a drawing without text"),
        *("too pale: grey", "too small: tiny", "cut off: tiny"),
    ):
        assert fault in found
