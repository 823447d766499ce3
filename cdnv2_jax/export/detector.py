"""Exporting a detector: checked by running the file before it is put in its place."""

from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax.detection.checkpoint import Classes
from cdnv2_jax.detection.cost import cost_of
from cdnv2_jax.detection.data.canvas import resize
from cdnv2_jax.detection.detector import PyramidDetector
from cdnv2_jax.detection.usage import CanvasPreparation
from cdnv2_jax.errors import UserError
from cdnv2_jax.export.detector_programs import (
    DETECTOR_FORMATS,
    Canvas,
    DetectorAgreement,
    DetectorFormat,
    detect,
    detector_agreement,
)
from cdnv2_jax.export.metadata import detector_metadata
from cdnv2_jax.export.photographs import whole_photographs
from cdnv2_jax.export.verify import LARGEST_DIFFERENCE
from cdnv2_jax.export.write import check_target, write_verified

LEAST_SAME = 0.9
"""Share of the detections. Rounding turns round what all but ties: an order, or an overlap at the threshold."""


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
    """Writes a detector as the file `output` and says how near the file's own results are to the detector's.

    Args:
      detector: in evaluation mode. classes: what it tells apart. preparation: of its images.
      output, overwrite: as for `export_classifier`. format: a key of DETECTOR_FORMATS.
      canvas: height and width, multiples of 32; None for the preparation's landscape.

    Raises:
      UserError: as for `export_classifier`; or another canvas, or a format that does not know such detectors.
    """
    if format not in DETECTOR_FORMATS:
        raise UserError(f"detectors are exported as {' or '.join(DETECTOR_FORMATS)}, not as {format}")
    canvas = canvas or preparation.canvas
    kind, program = check_target(output, format, overwrite), DETECTOR_FORMATS[format]
    metadata = detector_metadata(detector, classes, preparation, canvas, cost_of(detector, *canvas)["total"])

    def verify(path: Path) -> DetectorAgreement:
        images, sizes = _photographs(preparation, canvas, program)
        found = detector_agreement(program.run(path, images, sizes), detect(detector, images, sizes))
        if not (found.difference <= LARGEST_DIFFERENCE and found.same >= LEAST_SAME):
            raise UserError(
                f"{output} ({kind.title}) does not give what the detector gives ({found}): nothing was written"
            )
        return found

    return write_verified(output, kind, metadata, lambda path: program.write(path, detector, canvas, metadata), verify)


def _photographs(preparation: CanvasPreparation, canvas: Canvas, program: DetectorFormat) -> tuple[Any, Any]:
    """(images float32 [2, *canvas, 3], sizes int32 [2, 2])."""
    images = whole_photographs()
    if program.fills_canvas:
        images = [resize(image, canvas)[0] for image in images]
        preparation = CanvasPreparation(min(canvas), max(canvas), preparation.mean, preparation.std)
    prepared, sizes = zip(*(preparation(image, canvas) for image in images), strict=True)
    return np.stack(prepared), np.stack(sizes)
