"""Detectors as programs: what they find is what the detector finds."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax import export

from cdnv2_jax import UserError
from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.detectors.settings import Kind
from cdnv2_jax.export.detector import Found, detect, detector_agreement, export_detector
from tests.export.alone import run_alone
from tests.export.detectors import CANVAS, CLASSES, PREPARATION, detector
from tests.weights.networks import contents


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise on the upper left of canvases."""
    sizes = np.array([(64, 96), (40, 90), (64, 50)], np.int32)[:count]
    noise = np.random.default_rng(0).standard_normal((count, *CANVAS, 3), np.float32)
    for image, (height, width) in zip(noise, sizes, strict=True):
        image[height:] = image[:, width:] = 0
    return noise, sizes


@pytest.mark.soak  # compiled three times: the detector, its program, and that in its process; a classifier's is one
@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn"])
def test_stablehlo(kind: Kind, tmp_path: Path) -> None:
    """By JAX alone, in batches of other sizes than that it was verified with."""
    path = tmp_path / "detector.stablehlo"
    found = export_detector(detector(kind), CLASSES, PREPARATION, path, format="stablehlo")
    assert found.detections > 10 and found.same == 1 and found.difference < 1e-5
    noise, sizes = images(3)
    np.savez(tmp_path / "images.npz", images=noise, sizes=sizes)
    code = """
import jax, numpy
given = numpy.load("images.npz")
detector = jax.export.deserialize(open("detector.stablehlo", "rb").read())
numpy.savez("found.npz", **detector.call(given["images"], given["sizes"]))
"""
    run_alone(code, tmp_path)
    results, expected = np.load(tmp_path / "found.npz"), detect(detector(kind), noise, sizes)
    for number, one in enumerate(expected):
        valid = results["valid"][number]
        assert valid.sum() == len(one.scores) > 0
        np.testing.assert_allclose(results["boxes"][number][valid], one.boxes, atol=1e-2)
        np.testing.assert_allclose(results["scores"][number][valid], one.scores, atol=1e-5)
        np.testing.assert_array_equal(results["labels"][number][valid], one.labels)
    said = json.loads(Path(f"{path}.json").read_text())
    assert (said["kind"], said["detector"], said["canvas"]) == ("detector", kind, list(CANVAS))
    assert said["usage"]["class_names"] == ["disc", "square", "star"]
    assert CanvasPreparation(**said["usage"]["preparation"]) == PREPARATION


def test_any_batch_can_be_traced() -> None:
    """As for StableHLO, whose programs take any number of images; nothing is compiled."""
    (batch,) = export.symbolic_shape("batch")
    graph, state = nnx.split(detector("retinanet"))
    images, sizes = jax.ShapeDtypeStruct((batch, *CANVAS, 3), np.float32), jax.ShapeDtypeStruct((batch, 2), np.int32)
    found = jax.eval_shape(lambda state, *given: nnx.merge(graph, state).detect(*given), state, images, sizes)
    assert found.boxes.shape == (batch, 30, 4) and found.finite.shape == (batch,)


def test_onnx(tmp_path: Path) -> None:
    found = export_detector(detector("retinanet"), CLASSES, PREPARATION, tmp_path / "detector.onnx", format="onnx")
    assert found.detections > 10 and found.same > 0.95 and found.difference < 1e-5


def test_what_is_not_exported(tmp_path: Path) -> None:
    path = tmp_path / "detector.onnx"
    with pytest.raises(UserError, match="only RetinaNet can be exported to ONNX"):
        export_detector(detector("faster_rcnn"), CLASSES, PREPARATION, path, format="onnx")
    with pytest.raises(UserError, match="detectors are exported as stablehlo or onnx, not as safetensors"):
        export_detector(detector("retinanet"), CLASSES, PREPARATION, path, format="safetensors")
    for format in ("onnx", "stablehlo"):
        with pytest.raises(UserError, match="multiple of 32"):
            to = path.with_suffix(f".{format}")
            export_detector(detector("retinanet"), CLASSES, PREPARATION, to, format=format, canvas=(64, 65))
    assert contents(tmp_path) == {}


def test_agreement() -> None:
    """By hand: a box moved by less than a pixel is the same, one of another class or further away is not."""
    boxes = np.array([(0, 0, 10, 10), (20, 20, 40, 40), (5, 5, 9, 9)], np.float32)
    scores, labels = np.array([0.8, 0.5, 0.4], np.float32), np.array([1, 0, 2])
    expected = [Found(boxes, scores, labels)]
    same = detector_agreement([Found(boxes + 0.9, scores - 0.08, labels)], expected)
    assert (same.images, same.detections, same.same) == (1, 3, 1.0)
    assert same.difference == pytest.approx(0.1)
    order = [2, 0, 1]
    assert detector_agreement([Found(boxes[order], scores[order], labels[order])], expected).same == 1
    assert detector_agreement([Found(boxes + 1.5, scores, labels)], expected).same == 0
    assert detector_agreement([Found(boxes, scores, labels + 1)], expected).same == 0
    assert detector_agreement([Found(boxes[:2], scores[:2], labels[:2])], expected).same == pytest.approx(2 / 3)
    assert detector_agreement([Found(boxes[:0], scores[:0], labels[:0])] * 2, expected + expected).same == 0
    with_logits = [Found(boxes, scores, labels, np.array([[1.0, -4.0]]))]
    moved = [Found(boxes, scores, labels, np.array([[1.0, -3.0]]))]
    assert detector_agreement(moved, with_logits).difference == pytest.approx(0.25)
