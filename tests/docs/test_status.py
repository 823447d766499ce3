"""docs/status.md says what registry, published figures and results files say."""

import re
from pathlib import Path

import pytest

from docs import status_tables
from tests.docs.markdown import ROOT


def test_the_page_is_up_to_date() -> None:
    """If not: python -m docs.status_tables."""
    assert status_tables.main(["--check"]) == 0


def test_figures() -> None:
    """Some as the papers' pages print them, and as the official code counts them."""
    page = (ROOT / "docs" / "status.md").read_text(encoding="utf-8")
    assert "| `cdnv2_a` | ImageNet | 35.60 | not run |" in page
    assert "| `cdnv2_cifar_146`, reconstruction | CIFAR-100 | 22.52 | not run |" in page
    assert "| `cdnv2_c` | 224² | 309M | 309,740,977 | 6.1M | 6,177,512 |" in page
    assert "| `condensenet_86` | 32² | 65.8M | 65,8" in page
    assert "| retinanet | `cdnv2_c` | 31.7 | not run |" in page
    assert len(re.findall(r"^\| (faster_rcnn|retinanet) ", page, re.MULTILINE)) == 10


def test_check_and_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "status.md"
    current = (ROOT / "docs" / "status.md").read_text(encoding="utf-8")
    page.write_text(current.replace("35.60", "25.60"), encoding="utf-8")
    assert status_tables.main(["--page", str(page), "--check"]) == 1
    assert "not up to date" in capsys.readouterr().err
    assert status_tables.main(["--page", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == current


def test_a_page_without_the_comments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "status.md"
    page.write_text("text")
    assert status_tables.main(["--page", str(page)]) == 2
    assert "lacks the comments '<!-- errors:" in capsys.readouterr().err
    assert page.read_text() == "text"
