"""What the pictures show is what the arrays hold, read back from the drawn figures."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from cdnv2_jax.report.connection_plots import draw_cuts, draw_group_strips, draw_layer_map, draw_readers
from cdnv2_jax.report.learning import mark_stages
from cdnv2_jax.report.mistakes import draw_confusion, short_name
from cdnv2_jax.report.published import classifier_points, draw_published, millions_of

NAN = np.nan


@pytest.fixture
def figure() -> Figure:
    return Figure(figsize=(5, 4))


def _shown(figure: Figure) -> np.ma.MaskedArray:
    array: Any = figure.axes[0].images[0].get_array()
    return array


def test_layer_map(figure: Figure) -> None:
    """Three layers in blocks of one and two: the dashed lines part the first from the others."""
    values = np.array([[2, 3, 0.5], [NAN, 12, 2], [NAN, NAN, 4]])
    draw_layer_map(figure, values, [1], columns="to", rows="from")
    np.testing.assert_allclose(_shown(figure).filled(-1), [[1, 0.25, 0.125], [-1, 1, 0.5], [-1, -1, 1]])
    axes = figure.axes[0]
    lines = {(tuple(np.asarray(line.get_xdata())), tuple(np.asarray(line.get_ydata()))) for line in axes.lines}
    # Below the rows of the stem and of layer 1, and before the column of layer 2.
    assert lines == {((0.5, 2.5), (1.5, 1.5)), ((0.5, 0.5), (-0.5, 1.5))}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stem", "1", "2"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3"]


def test_group_strips(figure: Figure) -> None:
    masks = [np.array([[1, 0], [0, 1]], bool), np.array([[0, 0, 1], [1, 0, 0]], bool)]
    draw_group_strips(figure, masks, channels="channel", row_pixels=1)
    expected = [[1, 0.15, 0], [0.15, 1, 0], [0, 0, 0], [0.15, 0.15, 1], [1, 0.15, 0.15], [0, 0, 0]]
    np.testing.assert_allclose(_shown(figure), expected)


def test_readers(figure: Figure) -> None:
    """Six groups: four, five and six readers are one colour."""
    kept = np.array(
        [[1, 1, 1, 0, 1], [1, 0, 1, 0, 1], [1, 0, 1, 0, 1], [1, 0, 1, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    )
    draw_readers(figure, [kept.astype(bool)], verb="read")
    heights = [container.patches[0].get_height() for container in figure.axes[0].containers]  # pyright: ignore
    np.testing.assert_allclose(heights, [20, 20, 0, 20, 40])


def test_cuts(figure: Figure) -> None:
    stages = [
        {"stage": 1, "cut_connections": [0.25, 0.25], "cut_weight": [0.1, 0.2]},
        {"stage": 2, "cut_connections": [0.5, 0.3], "cut_weight": [0.3, 0.05]},
    ]
    draw_cuts(figure, stages, ("LGC", "SFR"))
    drawn = [np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].lines]
    np.testing.assert_allclose(drawn, [[10, 30], [20, 5], [25, 40]])


@pytest.mark.parametrize(("stages", "labels"), [(2, ["stage 1", "stage 2"]), (5, ["1", "2", "3", "4", "5"])])
def test_stages_are_numbered(stages: int, labels: list[str], figure: Figure) -> None:
    axes = figure.subplots()
    mark_stages(axes, [{"kind": "stage", "step": n, "stage": n} for n in range(1, stages + 1)], with_numbers=True)
    assert [text.get_text() for text in axes.texts] == labels


def test_confusion(figure: Figure) -> None:
    draw_confusion(figure, np.array([[9, 1], [0, 0]]), ["cat", "a very long name\nof two lines"])
    pixels = _shown(figure)
    np.testing.assert_allclose(pixels[..., 3], [[0.75 * 0.9**0.5, 0.75 * 0.1**0.5], [0, 0]])
    assert [text.get_text() for text in figure.axes[0].texts] == ["9", "1"]
    assert short_name("a very long name\nof two lines") == "a very long n…" and short_name("a\nb") == "a b"


def test_published(figure: Figure) -> None:
    points = classifier_points("cifar10")
    draw_published(figure, points, figure_name="error", own=(50.0, 7.5))
    drawn = {
        (float(np.asarray(line.get_xdata())[0]), float(np.asarray(line.get_ydata())[0]))
        for line in figure.axes[0].lines
    }
    assert drawn == {(p.millions, p.value) for p in points} | {(50.0, 7.5)}
    assert {text.get_text() for text in figure.axes[0].texts} >= {"86", "110", "146", "182"}


def test_millions() -> None:
    assert millions_of("28.6M") == 28.6
    with pytest.raises(ValueError, match="'1G'"):
        millions_of("1G")
