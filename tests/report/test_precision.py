"""The file and the drawings of a detector's precision; `tests/detection/test_coco_evaluation.py` tests its values."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cdnv2_jax import UserError
from cdnv2_jax.report.page import render_page
from cdnv2_jax.report.precision import (
    CURVES,
    ClassPrecision,
    Precision,
    draw_classes,
    draw_precision,
    precision_section,
    read_precision,
    write_precision,
)
from tests.report.html_page import HtmlPage

CURVE = [1.0] * 51 + [2 / 3] * 50
PRECISION = Precision(
    dict.fromkeys(CURVES, CURVE),
    [
        ClassPrecision("<b>cat</b>", 7, 0.25, 0.5, 0.125),
        ClassPrecision("dog", 1200, 0.75, 1.0, 0.875),
        ClassPrecision("cow", 0, -1.0, -1.0, -1.0),
    ],
)


def test_written_and_read_again(tmp_path: Path) -> None:
    for precision in (PRECISION, Precision({}, [])):
        write_precision(tmp_path / "precision.json", precision)
        assert read_precision(tmp_path / "precision.json") == precision


DAMAGED: dict[str, Any] = {
    "nothing": {},
    "no classes": {"curves": {}},
    "a curve is missing": {"curves": {"0.50": CURVE}, "classes": []},
    "a point is missing": {"curves": dict.fromkeys(CURVES, CURVE[1:]), "classes": []},
    "more than 1": {"curves": dict.fromkeys(CURVES, [2.0] * 101), "classes": []},
    "not finite": {"curves": dict.fromkeys(CURVES, [float("nan")] * 101), "classes": []},
    "a class without AP": {"curves": {}, "classes": [{"name": "x", "objects": 1}]},
    "negative": {"curves": {}, "classes": [{"name": "x", "objects": 1, "AP": 0.1, "AP50": 0.1, "AP75": -0.5}]},
    "infinitely many": {"curves": {}, "classes": [{"name": "x", "objects": float("inf"), "AP": 0}]},
    "lists": {"curves": [CURVE] * 3, "classes": []},
}


@pytest.mark.parametrize("found", DAMAGED.values(), ids=DAMAGED)
def test_damaged(found: Any, tmp_path: Path) -> None:
    (tmp_path / "precision.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"precision.json cannot be read \(.+\): remove it"):
        read_precision(tmp_path / "precision.json")


def test_what_is_drawn() -> None:
    curves, bars = Figure(), Figure()
    draw_precision(curves, PRECISION)
    for line, name in zip(curves.axes[0].get_lines(), CURVES, strict=True):
        np.testing.assert_allclose(np.asarray(line.get_xydata()), np.stack([np.arange(101) / 100, CURVE], axis=1))
        assert line.get_label() == f"IoU {name}: AP 0.835"
    draw_classes(bars, PRECISION.classes[:2])
    [axes] = bars.axes
    assert [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] == [0.25, 0.75]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["<b>cat</b>", "dog"]
    assert [text.get_text() for text in axes.texts] == ["0.25", "0.75"]
    np.testing.assert_array_equal(np.asarray(axes.get_lines()[0].get_xydata()), [[0.5, 0], [1, 1]])


def test_section() -> None:
    """The best class first, those without objects only counted; of very many the best and the worst."""
    section = precision_section(PRECISION)
    page = HtmlPage(render_page("report", "of a detector", [section]))
    assert page.faults == [] and "Classes without objects in these images: 1." in page.text
    assert [tuple(row) for row in section.tables[0].rows] == [
        ("dog", "1,200", "0.750", "1.000", "0.875"),
        ("<b>cat</b>", "7", "0.250", "0.500", "0.125"),
    ]
    many = [ClassPrecision(f"c{number}", 1, number / 1000, 0, 0) for number in range(200)]
    section = precision_section(Precision(PRECISION.curves, many))
    assert [row[0] for row in section.tables[0].rows] == [f"c{n}" for n in (*range(199, 159, -1), *range(39, -1, -1))]
    assert "Of 200 classes, the 40 with the highest and the 40 with the lowest AP are shown." in section.text
    assert precision_section(Precision({}, PRECISION.classes[2:])).text == ["The held-out images have no objects."]
