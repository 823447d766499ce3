"""Small detectors to export."""

import functools
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from cdnv2_jax import create_model
from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.data.preparation import IMAGENET
from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.cost import PartCost
from cdnv2_jax.detectors.detector import Classes, PyramidDetector
from cdnv2_jax.detectors.retinanet import RetinaNet
from cdnv2_jax.detectors.settings import Kind
from cdnv2_jax.export.detector import write_onnx
from cdnv2_jax.weights.metadata import detector_metadata
from tests.detection.tiny import tiny_settings

CANVAS = (64, 96)
CLASSES = Classes(("disc", "square", "star"), (1, 2, 5))
PREPARATION = CanvasPreparation(64, 96, *IMAGENET)


@functools.cache
def detector(kind: Kind) -> PyramidDetector:
    """On a small cdnv2_a, from drawn weights; what would be too unlikely to be detected is, here."""
    settings = tiny_settings(kind, score_threshold=0.005, most_detections=30)
    backbone = create_model("cdnv2_a", num_classes=1, stages=(1,) * 5, growth=(8,) * 5, rngs=nnx.Rngs(0))
    made = build_detector(settings, backbone, rngs=nnx.Rngs(1))
    made.eval()
    heads = made.head if isinstance(made, RetinaNet) else made.roi_head
    # Unlike initial values, such that scores and boxes are not all alike.
    nnx.update(heads, jax.tree.map(lambda x: 8 * x if x.ndim > 1 else x, nnx.state(heads, nnx.Param)))
    return made


def metadata(canvas: tuple[int, int] = CANVAS) -> dict[str, Any]:
    return detector_metadata(detector("retinanet"), CLASSES, PREPARATION, canvas, PartCost(1, 1))


def write_retinanet(path: Path, canvas: tuple[int, int] = CANVAS) -> None:
    """As ONNX, without the comparison that would have the detector compiled."""
    write_onnx(path, detector("retinanet"), canvas, metadata(canvas))
