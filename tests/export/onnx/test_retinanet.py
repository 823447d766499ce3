"""Models of RetinaNet give what our own detector gives, down to the detections, for any batch of images of any size."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
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
from tests.export.onnx.networks import operations, small_network
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


def ours(detector: RetinaNet, images: np.ndarray, sizes: np.ndarray) -> tuple[list[jax.Array], Detections]:
    """(logits of every level, detections in images of these sizes)."""
    graph, state = nnx.split(detector)

    @jax.jit
    def outputs(state, images):
        merged = nnx.merge(graph, state)
        logits, *_ = merged.outputs(images, jnp.asarray(sizes))
        return logits, merged.detect(images, jnp.asarray(sizes))

    return outputs(state, images)


def placed(sizes: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """Noise of these sizes at the upper left of canvases."""
    images = np.random.default_rng(0).normal(size=(len(sizes), *canvas, 3)).astype(np.float32)
    for image, (height, width) in zip(images, sizes, strict=True):
        image[height:] = image[:, width:] = 0
    return images


def session_of(detector: RetinaNet, canvas: tuple[int, int]) -> onnxruntime.InferenceSession:
    model = retinanet_to_onnx(detector, height=canvas[0], width=canvas[1])
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    found = session.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2)), "sizes": sizes})
    return [np.asarray(output) for output in found]


SIZES = np.array([(64, 96), (33, 40), (64, 31)], np.int32)
"""One fills its canvas; one reaches into a cell of 32 pixels that it does not fill; one leaves two thirds empty."""

CASES: dict[str, tuple[str, dict[str, float]]] = {
    "condensed": ("cdnv2_a condensed", {"score_threshold": 0.3}),
    "shufflenet, few candidates of a level": ("shufflenet, megvii", {"candidates_per_level": 20}),
    "mobilenet, few pairs of box and class": ("mobilenet", {"nms_candidates": 25, "most_detections": 25}),
    "mobilenet, few detections": ("mobilenet", {"most_detections": 5, "nms_threshold": 0.2}),
}


@pytest.mark.parametrize(("what", "changes"), CASES.values(), ids=CASES)
def test_same_detections(what: str, changes: dict[str, float]) -> None:
    """In batches of one, two and three images."""
    check_same_detections(detector_on(what, **changes), SIZES, (HEIGHT, WIDTH), (slice(0, 1), slice(1, 3), slice(0, 3)))


def check_same_detections(
    detector: RetinaNet, sizes: np.ndarray, canvas: tuple[int, int], batches: Sequence[slice]
) -> None:
    images, session = placed(sizes, canvas), session_of(detector, canvas)
    our_logits, found = ours(detector, images, sizes)
    expected = np.concatenate(our_logits, axis=1)
    for batch in batches:
        logits, boxes, selected = run(session, images[batch], sizes[batch])
        counted = np.isfinite(logits)
        assert counted[(sizes[batch] == canvas).all(1)].all()
        np.testing.assert_allclose(
            logits[counted], expected[batch][counted], atol=TOLERANCE * np.abs(expected).max(), rtol=0
        )
        assert selected.dtype == np.int64 and (np.diff(selected[:, 0]) >= 0).all()
        for place, number in enumerate(range(len(sizes))[batch]):
            valid = np.asarray(found.valid[number])
            assert valid.sum() >= 5
            _, labels, anchors = selected[selected[:, 0] == place].T
            np.testing.assert_array_equal(labels, np.asarray(found.labels[number])[valid])
            np.testing.assert_allclose(boxes[place, anchors], np.asarray(found.boxes[number])[valid], atol=5e-3)
            scores = expit(logits[place, anchors, labels])
            np.testing.assert_allclose(scores, np.asarray(found.scores[number])[valid], atol=1e-5)


@pytest.mark.soak  # cdnv2_c and 256 channels in the pyramid are compiled here, most of a minute
def test_same_detections_at_full_size() -> None:
    settings = DetectorSettings(kind="retinanet", num_classes=80, most_detections=30)
    detector = build_detector(settings, small_network("cdnv2_c condensed", whole=True), rngs=nnx.Rngs(0))
    assert isinstance(detector, RetinaNet)
    detector.eval()
    canvas, sizes = (256, 320), np.array([(256, 320), (200, 300)], np.int32)
    logits, *_ = run(session_of(detector, canvas), placed(sizes[:1], canvas), sizes[:1])
    detector.head.classes.kernel[...] = detector.head.classes.kernel[...] / logits.std()
    check_same_detections(detector, sizes, canvas, (slice(0, 2),))


def test_nothing_found() -> None:
    session = session_of(detector_on("mobilenet", score_threshold=1.0), (HEIGHT, WIDTH))
    *_, selected = run(session, placed(SIZES, (HEIGHT, WIDTH)), SIZES)
    assert selected.shape == (0, 3)


def test_anchors_and_boxes() -> None:
    """All are given, those that were not selected, too: boxes within the images, scores of 0 for cells beyond them.

    Without a score threshold nothing that scores 0 is selected.
    """
    detector = detector_on("mobilenet", score_threshold=0.0)
    logits, boxes, selected = run(session_of(detector, (HEIGHT, WIDTH)), placed(SIZES, (HEIGHT, WIDTH)), SIZES)
    s = detector.settings
    inside = [
        np.concatenate(
            [
                np.repeat(np.add.outer(0 * y, x < width) & (y < height)[:, None], s.anchors_per_cell)
                for y, x in ((np.arange(0, HEIGHT, stride), np.arange(0, WIDTH, stride)) for stride in s.strides)
            ]
        )
        for height, width in ((64, 96), (64, 64), (64, 32))  # of SIZES, padded to 32
    ]
    np.testing.assert_array_equal(np.isfinite(logits), np.stack(inside)[:, :, None] & np.ones(3, bool))
    assert np.isfinite(logits[tuple(selected[:, [0, 2]].T)]).all()
    assert boxes.shape == (3, len(inside[0]), 4)
    for of_image, (height, width) in zip(boxes, SIZES, strict=True):
        assert of_image.min() == 0 and of_image[:, 0::2].max() == width and of_image[:, 1::2].max() == height


def test_structure() -> None:
    """The head's weights, shared by five levels, are stored once; only its outputs and the result are transposed."""
    detector = detector_on("cdnv2_a condensed")
    model = retinanet_to_onnx(detector, height=HEIGHT, width=WIDTH)
    onnx.checker.check_model(model, full_check=True)
    assert operations(model)["Transpose"] == 2 * 5 + 1
    stored = [tensor for tensor in model.graph.initializer if tensor.name.startswith("level_") and tensor.dims]
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
