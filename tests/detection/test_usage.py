"""A detector says how images are prepared for it; what it says is not trusted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.canvas import KEY, CanvasPreparation
from cdnv2_jax.data.preparation import IMAGENET
from cdnv2_jax.detectors.detector import Classes
from cdnv2_jax.weights.open import OpenedDetector
from tests.detection.tiny import tiny_detector


def opened(metadata: dict[str, Any]) -> OpenedDetector:
    """A checkpoint that says so; of what it says the preparation alone is looked at."""
    detector = tiny_detector("retinanet")
    return OpenedDetector(Path("it"), detector, Classes(["a", "b", "c"], [1, 2, 3]), metadata)


def test_what_a_detector_says() -> None:
    preparation = CanvasPreparation(100, 130, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert opened({KEY: preparation.to_json()}).preparation == preparation
    assert preparation.canvas == (128, 160)
    silent = opened({}).preparation
    assert (silent.canvas, silent.mean, silent.std) == ((800, 1344), *IMAGENET)
    for said in ({"short_side": 0}, {"std": (0, 1, 1)}, {"mean": (1, 1)}, {"sides": 3}, {"mean": "x"}):
        with pytest.raises(UserError, match="it: its preprocessing metadata is damaged"):
            _ = opened({KEY: said}).preparation


def test_preparation() -> None:
    """A landscape fills the canvas's width; a portrait is made to fit its height. Beyond them there is nothing."""
    preparation = CanvasPreparation(64, 96, (0.0, 0.0, 0.0), (0.5, 0.5, 0.5))
    white = np.full((50, 100, 3), 255, np.uint8)
    placed, size = preparation(white, (64, 96))
    assert (placed.shape, size.tolist()) == ((64, 96, 3), [48, 96])
    assert (placed[:48] == 2).all() and (placed[48:] == 0).all()
    placed, size = preparation(white.transpose(1, 0, 2), (64, 96))
    assert size.tolist() == [64, 32]
    assert (placed[:, :32] == 2).all() and (placed[:, 32:] == 0).all()
