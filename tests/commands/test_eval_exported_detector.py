"""`eval` of an exported detector: the detections of its checkpoint, and of `predict`; what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cdnv2_jax.detectors.cost import PartCost
from cdnv2_jax.export.detector import write_onnx
from cdnv2_jax.weights.checkpoint import USAGE_KEY, save_detector
from cdnv2_jax.weights.metadata import detector_metadata
from tests.commands.shell import Shell
from tests.export.detectors import CANVAS, CLASSES, PREPARATION, detector

EVALUATION = (
    *("main.py", "eval", "--config", "shapes:retinanet,cdnv2_a", "--config.data.source=coco"),
    *("--config.data.directory=images", "--config.data.eval_batch_size=2"),
)
LANDSCAPES = {"1.png": (64, 96), "2.png": (40, 90), "3.png": (130, 150)}


@pytest.fixture
def here(shell: Shell) -> Shell:
    """A shell with a small RetinaNet, exported, and three annotated images that it puts on its canvas."""
    metadata = detector_metadata(detector("retinanet"), CLASSES, PREPARATION, CANVAS, PartCost(1, 1))
    write_onnx(Path("network.onnx"), detector("retinanet"), CANVAS, metadata)
    random, images, boxes = np.random.default_rng(0), [], []
    for number, (name, (height, width)) in enumerate(LANDSCAPES.items(), 1):
        Path("images/val2017").mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(f"images/val2017/{name}")
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        boxes.append({"id": number, "image_id": number, "category_id": 5, "bbox": [5, 5, 30, 30], "iscrowd": 0})
    categories = [{"id": number, "name": f"{name}"} for name, number in zip(*_classes(), strict=True)]
    Path("images/annotations").mkdir()
    content = {"images": images, "annotations": [{**box, "area": 900} for box in boxes], "categories": categories}
    Path("images/annotations/instances_val2017.json").write_text(json.dumps(content))
    return shell


def _classes() -> tuple[Any, Any]:
    return CLASSES.names, CLASSES.category_ids


def _results(path: str) -> list[dict[str, Any]]:
    found = json.loads(Path(path).read_text())
    return sorted(found, key=lambda one: (one["image_id"], -one["score"]))


def _assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs) > 10
    for one, other in zip(ours, theirs, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        np.testing.assert_allclose([*one["bbox"], one["score"]], [*other["bbox"], other["score"]], atol=2e-3)


def test_onnx(here: Shell) -> None:
    printed = here.succeeds(*EVALUATION, "--checkpoint", "network.onnx", "--output", "ours.json")
    assert "retinanet on cdnv2_a, 3 images of images" in printed and "average precision" in printed
    assert "all images on the program's only canvas, 96 × 64" in printed
    assert "short_side 64 (checkpoint) instead of 128 (config file)" in printed
    outcome = here.run("main.py", "predict", "--checkpoint", "network.onnx", "--format", "coco", "images/val2017")
    Path("predicted.json").write_text(outcome.out)
    _assert_same(_results("ours.json"), _results("predicted.json"))
    fixed = ("--checkpoint", "network.onnx", "--config.model.settings.score_threshold=0.5")
    assert "whose settings are fixed: leave out --config.model.settings" in here.refuses(*EVALUATION, *fixed)
    assert "no choice of weights" in here.refuses(*EVALUATION, *fixed[:2], "--weights", "ema")
    other = ("main.py", "eval", "--config", "shapes:faster_rcnn,cdnv2_a", "--checkpoint", "network.onnx")
    assert "network.onnx holds a retinanet on cdnv2_a, the config is for" in here.refuses(*other)
    classifier = ("main.py", "eval", "--config", "digits", "--checkpoint", "network.onnx")
    assert "network.onnx holds a detector, not a classifier" in here.refuses(*classifier)


@pytest.mark.soak  # compiles the detector
def test_checkpoint(here: Shell) -> None:
    save_detector(Path("ours"), detector("retinanet"), CLASSES, metadata={USAGE_KEY: PREPARATION.to_json()})
    for checkpoint in ("ours", "network.onnx"):
        here.succeeds(*EVALUATION, "--checkpoint", checkpoint, "--output", f"{checkpoint}.json")
    _assert_same(_results("network.onnx.json"), _results("ours.json"))
