"""Confusion by hand, and the table of predictions there and back."""

from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax import UserError
from cdnv2_jax.report.mistakes import Predictions, confusion_matrix, most_confused, read_predictions, write_predictions

LOGITS = np.log(np.array([[6, 3, 1], [2, 2, 6], [1, 8, 1], [5, 4, 1], [9, 0.5, 0.5], [4, 4, 2]], np.float32))
LABELS = np.array([0, 1, 1, 1, 1, 1], np.int32)
IMAGES = np.array([0, 1, 2, 4, 5, 7])
"""Six of eight images; numbers 1, 4, 5 and 7 are mistaken, the last by a tie."""


@pytest.fixture
def predictions() -> Predictions:
    return Predictions.from_logits(LOGITS, LABELS, IMAGES)


def test_from_logits(predictions: Predictions) -> None:
    assert predictions.predicted.tolist() == [0, 2, 1, 0, 0, 0]
    np.testing.assert_allclose(predictions.probabilities, [0.6, 0.6, 0.8, 0.5, 0.9, 0.4], rtol=1e-6)
    assert predictions.images[predictions.mistakes].tolist() == [5, 1, 4, 7]


def test_huge_logits_and_nan() -> None:
    found = Predictions.from_logits(np.array([[1e30, 0], [np.nan, 0]], np.float32), np.zeros(2), np.arange(2))
    assert found.probabilities.tolist() == [1, 0]


def test_matrix_and_pairs(predictions: Predictions) -> None:
    assert confusion_matrix(predictions, 3).tolist() == [[1, 0, 0], [3, 1, 1], [0, 0, 0]]
    assert most_confused(predictions, 5) == [(1, 0, 3), (1, 2, 1)]
    assert most_confused(predictions, 1) == [(1, 0, 3)]


def test_there_and_back(predictions: Predictions, tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_predictions(path, predictions)
    assert path.read_text().splitlines()[:2] == ["image,label,predicted,probability", "0,0,0,0.600000"]
    again = read_predictions(path, 3)
    for name in ("images", "labels", "predicted"):
        np.testing.assert_array_equal(getattr(again, name), getattr(predictions, name))
    np.testing.assert_allclose(again.probabilities, predictions.probabilities, atol=1e-6)


HEAD = "image,label,predicted,probability\n"
DAMAGED = {
    "empty": "",
    "another table": "class,images,top1,top5\n",
    "a word": HEAD + "0,0,zero,0.5\n",
    "too few cells": HEAD + "0,0,0\n",
    "too many cells": HEAD + "0,0,0,0.5,1\n",
    "a class that there is not": HEAD + "0,0,3,0.5\n",
    "a negative class": HEAD + "0,-1,0,0.5\n",
    "a negative image": HEAD + "-1,0,0,0.5\n",
    "more than certain": HEAD + "0,0,0,1.5\n",
    "no number": HEAD + "0,0,0,nan\n",
    "a number too long": HEAD + f"{10**30},0,0,0.5\n",
    "a null byte": HEAD + "0,0,0,\0\n",
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_damaged(text: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"predictions\.csv cannot be read"):
        read_predictions(path, 3)


def test_no_mistakes(tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text(HEAD)
    none = read_predictions(tmp_path / "predictions.csv", 3)
    assert most_confused(none, 5) == [] and not confusion_matrix(none, 3).any()
