"""Detectors as functions of images on a canvas: compiled detectors, ONNX and StableHLO files."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from flax import nnx

from cdnv2_jax.detectors.detector import Detections, PyramidDetector
from cdnv2_jax.errors import NOT_FINITE, UserError, one_line
from cdnv2_jax.layers.dense_kernels import with_dense_kernels
from cdnv2_jax.layers.lowering import full_precision
from cdnv2_jax.weights.programs import compiled_program, open_session, read_exported, run_session


@dataclasses.dataclass(frozen=True)
class Found:
    """Detections in one image, best first.

    Attributes:
      boxes: float32 [n, 4], x1, y1, x2, y2 in pixels.
      scores: [n], in [0, 1].
      labels: int [n].
      logits: [anchors, classes] of all anchors, −∞ for those beyond the image; None if unknown.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    logits: np.ndarray | None = None


Detect = Callable[[np.ndarray, np.ndarray], list[Found]]
"""Normalised images at the top left of canvases of zeros, float32 [b, h, w, 3], and their heights and widths on it,
int32 [b, 2] → the detections in each image. Raises UserError if the results are not finite."""


def compiled_detector(detector: PyramidDetector) -> Detect:
    """Return the detector as it is now, compiled once per structure and shape; precision as for `compiled_forward`."""
    graph, state = nnx.split(with_dense_kernels(detector))
    arrays, structure = jax.tree.flatten(state)
    run = _detect(graph, structure)
    name = f"{detector.settings.kind} on {detector.backbone.name}"
    return lambda images, sizes: found_in_each(dataclasses.asdict(run(arrays, images, sizes)), name)


@lru_cache(maxsize=16)
def _detect(graph: nnx.GraphDef, structure: Hashable) -> Callable[..., Detections]:
    """Return the compiled function that detectors of one structure share."""

    def run(arrays: list[jax.Array], images: jax.Array, sizes: jax.Array) -> Detections:
        detector = nnx.merge(graph, jax.tree.unflatten(cast(Any, structure), arrays))
        with full_precision(detector):
            return detector.detect(images, sizes)

    return jax.jit(run)


def stablehlo_detector(path: Path) -> Detect:
    """Return the detector at `path` as a compiled function."""
    call = compiled_program(path, read_exported(path))

    def detect(images: np.ndarray, sizes: np.ndarray) -> list[Found]:
        try:
            return found_in_each(call(images, sizes), str(path))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise _unusual(path, error) from error

    return detect


def found_in_each(found: Mapping[str, Any], name: str) -> list[Found]:
    """Return the detections of a batch from the fields of `Detections`; UserError if they are not finite."""
    found = jax.device_get(found)
    refuse_not_finite(bool(found["finite"].all()), name)
    rows = zip(found["boxes"], found["scores"], found["labels"], found["valid"], strict=True)
    return [Found(boxes[valid], scores[valid], labels[valid]) for boxes, scores, labels, valid in rows]


def onnx_detector(path: Path) -> Detect:
    """Return the detector at `path`, see `retinanet_to_onnx`, as a function."""
    session = open_session(path)

    def detect(images: np.ndarray, sizes: np.ndarray) -> list[Found]:
        inputs = {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2)), "sizes": sizes}
        logits, boxes, selected = run_session(path, session, ["logits", "boxes", "selected"], inputs)
        refuse_not_finite(bool((logits < np.inf).all() and np.isfinite(boxes).all()), str(path))
        try:
            return [_selected(logits[n], boxes[n], selected[selected[:, 0] == n]) for n in range(len(images))]
        except (IndexError, TypeError, ValueError) as error:
            raise _unusual(path, error) from error

    return detect


def _selected(logits: np.ndarray, boxes: np.ndarray, selected: np.ndarray) -> Found:
    _, labels, anchors = selected.T
    scores = 1 / (1 + np.exp(-logits[anchors, labels].astype(np.float64)))
    return Found(boxes[anchors], scores, labels, logits)


def refuse_not_finite(finite: bool, name: str) -> None:
    """Raise UserError if the results of the detector `name` are not finite."""
    if not finite:
        raise UserError(f"{name} {NOT_FINITE}")


def _unusual(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} does not return what a detector does ({one_line(error)}): export it again")
