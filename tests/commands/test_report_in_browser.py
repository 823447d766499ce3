"""The page of a run in Chromium, with its network off: nothing is fetched, nothing complains, nothing is too wide."""

import contextlib
import io
import shutil
from pathlib import Path

import pytest

from cdnv2_jax.commands.main import main
from tests.browser import SCHEMES, SIZES, Tab, browser_tab, find_browser

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome on this machine")

COLOUR = "getComputedStyle(document.body).backgroundColor"
"""Of the page's ground."""

NARROWEST = """
Math.min(...[...document.querySelectorAll("svg text")].map(text => parseFloat(getComputedStyle(text).fontSize)
    * text.ownerSVGElement.getBoundingClientRect().width / text.ownerSVGElement.viewBox.baseVal.width))
"""
"""Height of the smallest letters of all drawings, pixels."""


def _unwelcome(tab: Tab) -> list[str]:
    """What the browser fetched or complained of."""
    found = []
    for method, told in tab.events:
        if method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")):
            found.append(told["request"]["url"])
        if method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Network.loadingFailed"):
            found.append(f"{method}: {told}")
    return found


@pytest.fixture(scope="module")
def page(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(smoke_run, workdir)
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["report", "--workdir", str(workdir)]) == 0
    return workdir / "report.html"


def test_in_a_browser(page: Path) -> None:
    grounds = {}
    with browser_tab() as tab:
        for size, (width, _) in SIZES.items():
            for scheme in SCHEMES:
                tab.show(page, size, scheme)
                assert _unwelcome(tab) == []
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
                assert tab.evaluate("document.querySelectorAll('svg').length") == 10
                assert tab.evaluate(NARROWEST) >= 6.5
                grounds[scheme] = tab.evaluate(COLOUR)
    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}


def test_what_is_unwelcome_is_seen(tmp_path: Path) -> None:
    """The same checks on a page that does what ours must not."""
    page = tmp_path / "bad.html"
    page.write_text('<!DOCTYPE html><img src="http://example.com/a.png"><p style="width: 3000px">x<script>f()</script>')
    with browser_tab() as tab:
        tab.show(page, "phone", "light")
        assert any("example.com" in fault for fault in _unwelcome(tab))
        assert any("ReferenceError" in fault for fault in _unwelcome(tab))
        assert tab.evaluate("document.documentElement.scrollWidth") > 390
