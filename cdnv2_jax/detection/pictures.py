"""Images with their detections drawn on them: held-out images of a run, and any pictures."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cdnv2_jax.bounded_reading import read_bytes
from cdnv2_jax.data.decode import MAX_MEGAPIXELS, MOST_BYTES, BrokenImage, decode
from cdnv2_jax.detection.data.annotations import DetectionSource, Id
from cdnv2_jax.detection.predict import Detection
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import refuse_existing, replacing
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


FILE_FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
QUALITY = 92
PIXELS_OF_A_LINE = 400
"""A line of the boxes is one pixel thick for so many pixels of the longer side; 2 at least."""


class DrawnPictures:
    """Copies of pictures with their detections drawn on them, in one directory.

    Copies are named as the pictures, below the last directory that all pictures have in common. JPEG stays JPEG; of
    others the copy is a PNG, its name with ".png" appended if it has another ending.
    """

    def __init__(self, directory: Path, pictures: Iterable[Path], *, overwrite: bool):
        """Find out where all copies go; nothing is written.

        Raises:
          UserError: a copy exists, unless `overwrite`; or it would replace one of the pictures or another copy; or
            `directory` is a file.
        """
        if directory.exists() and not directory.is_dir():
            raise UserError(f"{directory} exists and is not a directory: draw into another one")
        absolute = {picture: Path(os.path.abspath(picture)) for picture in pictures}
        top = os.path.commonpath([path.parent for path in absolute.values()]) if absolute else ""
        self._copies = {picture: directory / _copy_name(path.relative_to(top)) for picture, path in absolute.items()}
        originals = {os.path.realpath(path) for path in absolute.values()}
        taken: dict[Path, Path] = {}
        for picture, copy in self._copies.items():
            if os.path.realpath(copy) in originals:
                raise UserError(f"{copy} is one of the pictures, which are not replaced: draw into another directory")
            if absolute[taken.setdefault(copy, picture)] != absolute[picture]:
                raise UserError(f"{taken[copy]} and {picture} would both be drawn as {copy}: rename one of them")
            refuse_existing(copy, overwrite, file=True)

    def write(
        self,
        picture: Path,
        objects: Iterable[Detection],
        *,
        threshold: float,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        """Draw what scores at least `threshold` and write the copy; BrokenImage if the picture cannot be read."""
        try:
            encoded = read_bytes(picture, MOST_BYTES)
        except ValueError as error:
            raise BrokenImage(str(picture), str(error)) from error
        pixels = decode(encoded, str(picture), max_megapixels=max_megapixels)
        shown = [one for one in objects if one.score >= threshold]
        drawn = draw_detections(
            pixels,
            np.array([one.box for one in shown]).reshape(-1, 4),
            np.array([one.label for one in shown], np.int64),
            np.array([one.score for one in shown]),
            {one.label: one.name for one in shown},
            thickness=max(2, round(max(pixels.shape[:2]) / PIXELS_OF_A_LINE)),
        )
        copy = self._copies[picture]
        with replacing(copy) as scratch:
            Image.fromarray(drawn).save(scratch, FILE_FORMATS[copy.suffix.lower()], quality=QUALITY)


def _copy_name(path: Path) -> Path:
    return path if path.suffix.lower() in FILE_FORMATS else path.with_name(f"{path.name}.png")
