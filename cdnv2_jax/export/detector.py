"""Export of detectors: the file is written, run, and compared with the detector."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.detectors.cost import cost_of
from cdnv2_jax.detectors.detector import Classes, PyramidDetector
from cdnv2_jax.detectors.retinanet import RetinaNet
from cdnv2_jax.errors import UserError
from cdnv2_jax.export.classifier import check_target, write_verified
from cdnv2_jax.export.onnx_file import save_onnx
from cdnv2_jax.export.stablehlo import exported, write_program
from cdnv2_jax.export.verify import LARGEST_DIFFERENCE, relative_difference, whole_photographs
from cdnv2_jax.layers.lowering import full_precision
from cdnv2_jax.weights.detector_programs import Detect, Found, found_in_each, onnx_detector, stablehlo_detector
from cdnv2_jax.weights.metadata import detector_metadata

Canvas = tuple[int, int]


def write_stablehlo(path: Path, detector: PyramidDetector, canvas: Canvas, metadata: Mapping[str, Any]) -> None:
    """Write images float32 [b, h, w, 3], sizes int32 [b, 2] → {"boxes", "scores", "labels", "valid", "finite"}."""
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *canvas, 3), jnp.float32)
    sizes = jax.ShapeDtypeStruct((batch, 2), jnp.int32)
    write_program(path, exported(detector, _detections, images, sizes), metadata)


def write_onnx(path: Path, detector: PyramidDetector, canvas: Canvas, metadata: Mapping[str, Any]) -> None:
    """Write images, sizes → logits, boxes, selected; see `retinanet_to_onnx`."""
    from cdnv2_jax.export.onnx_retinanet import retinanet_to_onnx

    if not isinstance(detector, RetinaNet):
        raise UserError("only RetinaNet can be exported to ONNX: use --format stablehlo for Faster R-CNN")
    save_onnx(path, retinanet_to_onnx(detector, height=canvas[0], width=canvas[1]), metadata)


def detect(detector: PyramidDetector, images: np.ndarray, sizes: np.ndarray) -> list[Found]:
    """Return the detector's own detections; for a RetinaNet with the logits of all anchors.

    Raises UserError if its results are not finite.
    """

    def run(images: jax.Array, sizes: jax.Array) -> tuple[dict[str, jax.Array], jax.Array | None]:
        logits = None
        if isinstance(detector, RetinaNet):
            of_levels, _, _, counted = detector.outputs(images, sizes)
            inside = jnp.concatenate(counted, axis=1)[:, :, None]
            logits = jnp.where(inside, jnp.concatenate(of_levels, axis=1), -jnp.inf)
        return _detections(detector, images, sizes), logits

    with full_precision(detector):
        found, logits = jax.device_get(jax.jit(run)(images, sizes))
    of_each = found_in_each(found, detector.settings.kind)
    if logits is None:
        return of_each
    return [dataclasses.replace(one, logits=values) for one, values in zip(of_each, logits, strict=True)]


def _detections(detector: PyramidDetector, images: jax.Array, sizes: jax.Array) -> dict[str, jax.Array]:
    found = dataclasses.asdict(detector.detect(images, sizes))
    return {name: found[name] for name in ("boxes", "scores", "labels", "valid", "finite")}


@dataclasses.dataclass(frozen=True)
class DetectorAgreement:
    """How closely two results for the same images match.

    Attributes:
      images: number of images.
      detections: number of detections, counting the larger of the two results in each image.
      same: fraction of the detections that are in both results, in [0, 1].
      difference: largest difference of the logits if known, otherwise of the scores of matching detections; relative
        to the largest value.
    """

    images: int
    detections: int
    same: float
    difference: float

    def __str__(self) -> str:
        return (
            f"on {self.images} photographs: {self.same:.0%} of {self.detections} detections match, largest relative "
            f"difference {self.difference:.2g}"
        )


def detector_agreement(actual: list[Found], expected: list[Found]) -> DetectorAgreement:
    """Compare detections in the same images; two match if they are of one class and their corners within a pixel."""
    same, detections, differences = 0, 0, [0.0]
    for ours, theirs in zip(actual, expected, strict=True):
        pairs = _matches(ours, theirs)
        same += len(pairs)
        detections += max(len(ours.scores), len(theirs.scores))
        if ours.logits is not None and theirs.logits is not None:
            logits = (np.where(np.isneginf(one), 0, one) for one in (ours.logits, theirs.logits))
            differences.append(relative_difference(*logits))
        elif pairs:
            mine, other = (list(side) for side in zip(*pairs, strict=True))
            differences.append(relative_difference(ours.scores[mine], theirs.scores[other]))
    share = same / detections if detections else 1.0
    return DetectorAgreement(len(expected), detections, share, float(np.max(differences)))


def _matches(ours: Found, theirs: Found) -> list[tuple[int, int]]:
    """Return pairs of indices of matching detections; each of `theirs` occurs at most once."""
    free = list(range(len(theirs.scores)))
    pairs = []
    for one in range(len(ours.scores)):
        for other in free:
            near = np.abs(ours.boxes[one] - theirs.boxes[other]).max() < 1
            if near and ours.labels[one] == theirs.labels[other]:
                pairs.append((one, other))
                free.remove(other)
                break
    return pairs


@dataclasses.dataclass(frozen=True)
class DetectorFormat:
    """A file format of exported detectors, one of DETECTOR_FORMATS.

    Attributes:
      write: function of (path, detector, canvas, metadata) that writes the file.
      load: function that returns the detector in a file as a function.
    """

    write: Callable[[Path, PyramidDetector, Canvas, Mapping[str, Any]], None]
    load: Callable[[Path], Detect]


DETECTOR_FORMATS = {
    "stablehlo": DetectorFormat(write_stablehlo, stablehlo_detector),
    "onnx": DetectorFormat(write_onnx, onnx_detector),
}
"""Formats by their name in `cdnv2 export --format`."""


LEAST_SAME = 0.9
"""Least fraction of matching detections. Rounding can flip near-ties: an order, or an overlap at the threshold."""


def export_detector(
    detector: PyramidDetector,
    classes: Classes,
    preparation: CanvasPreparation,
    output: Path,
    *,
    format: str,
    canvas: Canvas | None = None,
    overwrite: bool = False,
) -> DetectorAgreement:
    """Write a detector to the file `output` and return how closely the file's own results match the detector's.

    Args:
      detector: in evaluation mode.
      classes: what its labels stand for.
      preparation: preprocessing of its images.
      output, overwrite: as for `export_classifier`.
      format: a key of DETECTOR_FORMATS.
      canvas: height and width, multiples of 32; None for the landscape canvas of `preparation`.

    Raises:
      UserError: as for `export_classifier`; also an invalid canvas, or a detector that the format does not support.
    """
    if format not in DETECTOR_FORMATS:
        raise UserError(f"detectors are exported as {' or '.join(DETECTOR_FORMATS)}, not as {format}")
    canvas = canvas or preparation.canvas
    kind, program = check_target(output, format, overwrite), DETECTOR_FORMATS[format]
    metadata = detector_metadata(detector, classes, preparation, canvas, cost_of(detector, *canvas)["total"])

    def verify(path: Path) -> DetectorAgreement:
        images, sizes = _photographs(preparation, canvas)
        found = detector_agreement(program.load(path)(images, sizes), detect(detector, images, sizes))
        if not (found.difference <= LARGEST_DIFFERENCE and found.same >= LEAST_SAME):
            raise UserError(
                f"{output} ({kind.title}) does not reproduce the detector's results ({found}): nothing was written"
            )
        return found

    return write_verified(output, kind, lambda path: program.write(path, detector, canvas, metadata), verify)


def _photographs(preparation: CanvasPreparation, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Return two photographs, a landscape and a portrait: images float32 [2, *canvas, 3] and their sizes int32 [2, 2].

    At least one of them does not fill its canvas, whatever the canvas.
    """
    landscape, other = whole_photographs()
    images, sizes = zip(*(preparation(image, canvas) for image in (landscape, other[:, :320])), strict=True)
    return np.stack(images), np.stack(sizes)
