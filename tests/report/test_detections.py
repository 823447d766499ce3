"""Pictures of detections: the right pixels change, and no others."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdnv2_jax import UserError
from cdnv2_jax.report.detections import class_colour, detections_sheet, draw_detections

GREY = np.full((60, 90, 3), 100, np.uint8)
NAMES = ["circle", "square"]
BOX = np.array([[20, 30, 50, 55]], np.float32)


def _changed(picture: np.ndarray) -> np.ndarray:
    return (picture != 100).any(axis=2)


def test_a_frame_of_the_class_colour() -> None:
    picture = draw_detections(GREY, BOX, np.array([1]), np.array([0.9]), NAMES)
    frame = np.zeros((60, 90), bool)
    frame[30:55, 20:50] = True
    frame[32:53, 22:48] = False
    assert (picture[frame] == class_colour(1)).all()
    assert not _changed(picture)[32:53, 22:48].any()  # what was found stays visible
    assert not _changed(picture)[55:].any() and not _changed(picture)[30:, 50:].any()
    # The name stands right above: black letters on the class's colour.
    above = picture[:30][_changed(picture)[:30]]
    assert (above == class_colour(1)).all(axis=1).any() and (above.sum(axis=1) < 60).any()
    assert (GREY == 100).all()


def test_names_and_scores_differ() -> None:
    """Another class, another score and no score at all give other letters."""
    made = [
        draw_detections(GREY, BOX, np.array([label]), score, NAMES)[:30].tobytes()
        for label, score in ((0, np.array([0.9])), (1, np.array([0.9])), (1, np.array([0.5])), (1, None))
    ]
    assert len(set(made)) == 4


def test_names_that_cannot_be_drawn() -> None:
    """Control characters and halves of characters are escapes; of two million letters the ends are drawn."""
    for name, same in (("a\nb\ud800\x1b", "a\\nb\\ud800\\x1b"), ("x" * 2_000_000, f"{'x' * 19}…{'x' * 20}")):
        one, other = (draw_detections(GREY, BOX, np.array([0]), None, [text]) for text in (name, same))
        np.testing.assert_array_equal(one, other)


def test_the_best_is_on_top() -> None:
    boxes, labels = np.array([[20, 30, 50, 55], [20, 30, 50, 55]], np.float32), np.array([0, 1])
    for scores, top in (((0.9, 0.5), 0), ((0.5, 0.9), 1)):
        assert (draw_detections(GREY, boxes, labels, np.array(scores), NAMES)[54, 30] == class_colour(top)).all()


def test_truth_lies_below_in_white() -> None:
    truth = (np.array([[5, 40, 15, 50], [20, 30, 50, 55]], np.float32), np.array([0, 1]))
    picture = draw_detections(GREY, BOX, np.array([1]), np.array([0.9]), NAMES, truth=truth)
    assert (picture[40, 5:15] == 255).all() and (picture[49, 5:15] == 255).all()
    assert not _changed(picture)[41:49, 6:14].any()
    assert (picture[54, 20:50] == class_colour(1)).all()


def test_nothing_found() -> None:
    empty = np.zeros((0, 4), np.float32)
    np.testing.assert_array_equal(draw_detections(GREY, empty, np.zeros(0), np.zeros(0), NAMES), GREY)


@pytest.mark.parametrize("box", [[0, 0, 90, 60], [-20, -20, 10, 10], [85, 55, 200, 200], [30, 30, 30, 30]])
def test_boxes_at_the_border_and_beyond(box: list[float]) -> None:
    """The name stays within the picture."""
    picture = draw_detections(GREY, np.array([box], np.float32), np.array([0]), None, NAMES)
    assert picture.shape == GREY.shape
    assert (picture == class_colour(0)).all(axis=2).sum() > 100


def test_enlarged() -> None:
    picture = draw_detections(GREY, BOX, np.array([1]), None, NAMES, enlarge=3)
    assert picture.shape == (180, 270, 3)
    assert (picture[164, 60:150] == class_colour(1)).all() and not _changed(picture)[165:].any()


def test_colours_are_stable_bright_and_apart() -> None:
    colours = np.array([class_colour(label) for label in range(80)])
    assert len({tuple(colour) for colour in colours.tolist()}) == 80
    assert (colours @ [0.299, 0.587, 0.114]).min() > 60
    neighbours = np.abs(np.diff(colours, axis=0)).max(axis=1)
    assert neighbours.min() > 80


def test_a_sheet(tmp_path: Path) -> None:
    pictures = [np.full((20 + k, 30 - k, 3), 50 * k, np.uint8) for k in range(5)]
    path = detections_sheet(pictures, tmp_path / "below" / "sheet.png", columns=2)
    sheet = np.array(Image.open(path))
    assert sheet.shape == (8 + 3 * (24 + 8), 8 + 2 * (30 + 8), 3)
    for k, picture in enumerate(pictures):
        top, left = 8 + k // 2 * 32, 8 + k % 2 * 38
        np.testing.assert_array_equal(sheet[top : top + 20 + k, left : left + 30 - k], picture)
    assert sheet.sum() == sum(int(p.sum()) for p in pictures) + 255 * (sheet.size - sum(p.size for p in pictures))
    with pytest.raises(ValueError, match="at least one picture"):
        detections_sheet([], path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        detections_sheet(pictures, tmp_path / "file" / "sheet.png")
