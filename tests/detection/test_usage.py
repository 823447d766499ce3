"""A detector says how images are prepared for it; what it says is not trusted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cdnv2_jax.detection.checkpoint import preparation_of

from cdnv2_jax import UserError
from cdnv2_jax.data.preparation import IMAGENET
from cdnv2_jax.detection.data.canvas import KEY, CanvasPreparation
from cdnv2_jax.weights import arrays


def saved(path: Path, metadata: dict[str, Any]) -> Path:
    arrays.write(path, {"a": np.zeros(1)}, {"metadata": metadata}, overwrite=False)
    return path


def test_what_a_detector_says(tmp_path: Path) -> None:
    preparation = CanvasPreparation(100, 130, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert preparation_of(saved(tmp_path / "it", {KEY: preparation.to_json()})) == preparation
    assert preparation.canvas == (128, 160)


def test_silent_detectors_are_used_as_on_coco(tmp_path: Path) -> None:
    silent = preparation_of(saved(tmp_path / "it", {}))
    assert (silent.canvas, silent.mean, silent.std) == ((800, 1344), *IMAGENET)


@pytest.mark.parametrize("said", [{"short_side": 0}, {"std": (0, 1, 1)}, {"mean": (1, 1)}, {"sides": 3}, {"mean": "x"}])
def test_what_cannot_be(said: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="how to use the detector is not said as it should be"):
        preparation_of(saved(tmp_path / "it", {KEY: said}))


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
