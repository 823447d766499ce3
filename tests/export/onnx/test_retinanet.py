"""Models of RetinaNet give what our own detector gives, down to the detections."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx
from scipy.special import expit

from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.detector import Detections
from cdnv2_jax.detectors.retinanet import RetinaNet
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.errors import UserError
from cdnv2_jax.export.onnx_retinanet import retinanet_to_onnx
from tests.detection.tiny import tiny_detector, tiny_settings
from tests.export.onnx.networks import operations, run, small_network
from tests.tables import table

HEIGHT, WIDTH = 64, 96
TOLERANCE = 1e-5


def detector_on(what: str, gain: float = 30.0, **changes: float) -> RetinaNet:
    """A small detector whose scores and boxes are far apart."""
    detector = build_detector(tiny_settings("retinanet", **changes), small_network(what), rngs=nnx.Rngs(0))
    assert isinstance(detector, RetinaNet)
    random = np.random.default_rng(0)
    for conv in (*detector.head.class_branch, *detector.head.box_branch, detector.head.classes, detector.head.boxes):
        assert conv.bias is not None
        conv.kernel[...] = gain * conv.kernel[...]
        conv.bias[...] = random.uniform(0, 0.2, conv.bias.shape).astype(np.float32)
    detector.eval()
    return detector


def ours(detector: RetinaNet, images: np.ndarray) -> tuple[list[jax.Array], Detections]:
    """(logits of every level, detections) of one image that fills its canvas."""
    graph, state = nnx.split(detector)
    sizes = jnp.array([images.shape[1:3]])

    @jax.jit
    def outputs(state, images):
        merged = nnx.merge(graph, state)
        logits, *_ = merged._outputs(images, sizes)
        return logits, merged.detect(images, sizes)

    return outputs(state, images)


IMAGES = np.random.default_rng(0).normal(size=(1, HEIGHT, WIDTH, 3)).astype(np.float32)
CASES: dict[str, tuple[str, dict[str, float]]] = {
    "condensed": ("cdnv2_a condensed", {"score_threshold": 0.3}),
    "shufflenet, few candidates of a level": ("shufflenet, megvii", {"candidates_per_level": 20}),
    "mobilenet, few pairs of box and class": ("mobilenet", {"nms_candidates": 25, "most_detections": 25}),
    "mobilenet, few detections": ("mobilenet", {"most_detections": 5, "nms_threshold": 0.2}),
}


@pytest.mark.parametrize(("what", "changes"), CASES.values(), ids=CASES)
def test_same_detections(what: str, changes: dict[str, float]) -> None:
    check_same_detections(detector_on(what, **changes), IMAGES)


def check_same_detections(detector: RetinaNet, images: np.ndarray) -> None:
    height, width = images.shape[1:3]
    logits, boxes, selected = run(retinanet_to_onnx(detector, height=height, width=width), images)
    our_logits, found = ours(detector, images)
    expected = np.concatenate(our_logits, axis=1)
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)
    valid = np.asarray(found.valid[0])
    assert valid.sum() >= 5
    assert selected.shape == (valid.sum(), 3) and selected.dtype == np.int64
    of_image, labels, anchors = selected.T
    assert not of_image.any()
    np.testing.assert_array_equal(labels, np.asarray(found.labels[0])[valid])
    np.testing.assert_allclose(boxes[0, anchors], np.asarray(found.boxes[0])[valid], atol=1e-3)
    np.testing.assert_allclose(expit(logits[0, anchors, labels]), np.asarray(found.scores[0])[valid], atol=1e-5)


@pytest.mark.soak  # cdnv2_c and 256 channels in the pyramid are compiled here, most of a minute
def test_same_detections_at_full_size() -> None:
    settings = DetectorSettings(kind="retinanet", num_classes=80, most_detections=30)
    detector = build_detector(settings, small_network("cdnv2_c condensed", whole=True), rngs=nnx.Rngs(0))
    assert isinstance(detector, RetinaNet)
    detector.eval()
    images = np.random.default_rng(0).normal(size=(1, 256, 320, 3)).astype(np.float32)
    logits, *_ = run(retinanet_to_onnx(detector, height=256, width=320), images)
    detector.head.classes.kernel[...] = detector.head.classes.kernel[...] / logits.std()
    check_same_detections(detector, images)


def test_nothing_found() -> None:
    detector = detector_on("mobilenet", score_threshold=1.0)
    *_, selected = run(retinanet_to_onnx(detector, height=HEIGHT, width=WIDTH), IMAGES)
    assert selected.shape == (0, 3)


def test_boxes_lie_within_the_canvas() -> None:
    """All of them are given, those that were not selected, too."""
    detector = detector_on("mobilenet")
    _, boxes, _ = run(retinanet_to_onnx(detector, height=HEIGHT, width=WIDTH), IMAGES)
    cells = sum(-(-HEIGHT // stride) * -(-WIDTH // stride) for stride in detector.settings.strides)
    assert boxes.shape == (1, cells * detector.settings.anchors_per_cell, 4)
    assert boxes.min() == 0 and boxes[..., 0::2].max() == WIDTH and boxes[..., 1::2].max() == HEIGHT


def test_structure() -> None:
    """The head's weights, shared by five levels, are stored once; only its outputs are transposed."""
    detector = detector_on("cdnv2_a condensed")
    model = retinanet_to_onnx(detector, height=HEIGHT, width=WIDTH)
    onnx.checker.check_model(model, full_check=True)
    assert operations(model)["Transpose"] == 2 * 5
    stored = [tensor for tensor in model.graph.initializer if tensor.name.startswith("level_")]
    floats = sum(int(np.prod(tensor.dims)) for tensor in stored if tensor.data_type == onnx.TensorProto.FLOAT)
    assert floats == sum(x.size for x in jax.tree.leaves(nnx.state(detector.head, nnx.Param)))


MISTAKES: dict[str, tuple[Callable[[], Any], tuple[int, int], str]] = {
    "canvas": (
        lambda: detector_on("mobilenet"),
        (64, 90),
        "a canvas must be a multiple of 32 pixels on each side, got 64×90",
    ),
    "no canvas": (lambda: detector_on("mobilenet"), (0, 64), "multiple of 32"),
    "kind": (lambda: tiny_detector("faster_rcnn"), (64, 64), "only a RetinaNet can be exported to ONNX"),
    "backbone": (lambda: tiny_detector("retinanet"), (64, 64), "no family has architectures of type TinyArchitecture"),
}


@table("detector, canvas, message", MISTAKES)
def test_mistakes(detector: Callable[[], Any], canvas: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        retinanet_to_onnx(detector(), height=canvas[0], width=canvas[1])
