"""Held-out images with their detections drawn on them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax.data.decode import BrokenImage
from cdnv2_jax.detection.data.annotations import DetectionSource, Id
from cdnv2_jax.report.detections import detections_sheet, draw_detections

LEAST_SCORE = 0.3
"""Detections with a lower score are not drawn: there are many, and most of them are wrong."""

PICTURES = 9
SMALL = 320  # pixels of width; smaller images are enlarged, so that names are legible
LONGEST_SIDE = 8192  # pixels; longer images are not drawn, because all have the room of the largest


def write_examples(path: Path, source: DetectionSource, results: Sequence[dict[str, Any]]) -> None:
    """Write a PNG of `example_pictures`, if there are any."""
    if pictures := example_pictures(source, results):
        detections_sheet(pictures, path)


def example_pictures(source: DetectionSource, results: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    """Draw detections over the ground truth, in white, on the first `PICTURES` readable images.

    Images longer than `LONGEST_SIDE` are left out.

    Args:
      source: the images.
      results: detections on them, in COCO's results format.

    Returns:
      uint8 [h, w, 3] each.
    """
    found = defaultdict(list)
    for result in results:
        if result["score"] >= LEAST_SCORE:
            found[result["image_id"]].append(result)
    pictures = []
    for index in np.flatnonzero(np.max(source.sizes, axis=1, initial=0) <= LONGEST_SIDE).tolist():
        try:
            pictures.append(_picture(source, index, found))
        except BrokenImage:
            continue
        if len(pictures) == PICTURES:
            break
    return pictures


def _picture(source: DetectionSource, index: int, found: dict[Id, list[dict[str, Any]]]) -> np.ndarray:
    sample = source[index]
    pixels = sample.pixels()
    results = found[sample.image_id]
    corners = np.array([result["bbox"] for result in results]).reshape(-1, 4)
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
    labels = {number: label for label, number in enumerate(source.category_ids)}
    return draw_detections(
        pixels,
        boxes,
        np.array([labels[result["category_id"]] for result in results], np.int32),
        np.array([result["score"] for result in results]),
        source.class_names,
        truth=(sample.boxes, sample.labels),
        enlarge=min(-(-SMALL // pixels.shape[1]), LONGEST_SIDE // max(pixels.shape[:2])),
    )
