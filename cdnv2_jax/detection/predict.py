"""Detection of objects in images, in files or in memory."""

import dataclasses
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from cdnv2_jax.data.canvas import on_canvas
from cdnv2_jax.data.decode import MAX_MEGAPIXELS, BrokenImage
from cdnv2_jax.data.preparation import normalise, with_channels
from cdnv2_jax.data.read_ahead import Picture, prepared_batches
from cdnv2_jax.errors import UserError
from cdnv2_jax.weights.detector_programs import Found
from cdnv2_jax.weights.open import DetectorProgram

MOST_WAITING = 4
"""Batches of images that wait for others of their orientation, at most: each image on a canvas takes megabytes."""

NUMBER = re.compile(r"[0-9]{1,18}")


@dataclasses.dataclass(frozen=True)
class Detection:
    """An object found in an image.

    Attributes:
      box: x1, y1, x2, y2 in pixels of the image, upright as its EXIF orientation says.
      score: in [0, 1].
      label: index of the class.
      name: name of the class.
      category_id: id of the class in the files of the training images.
    """

    box: Sequence[float]
    score: float
    label: int
    name: str
    category_id: int | str


@dataclasses.dataclass(frozen=True)
class DetectedImage:
    """The objects found in an image.

    Attributes:
      path: path of the image; None for one that is not a file.
      height: of the image in pixels, upright.
      width: likewise.
      objects: best first.
      image_id: its number in COCO's results format; None if it has none.
    """

    COLUMNS: ClassVar = ("image", "x1", "y1", "x2", "y2", "score", "label", "name", "category_id")
    path: Path | None
    height: int
    width: int
    objects: Sequence[Detection]
    image_id: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return {"image": path, "height", "width", "objects": [fields of `Detection`, …]}."""
        objects = [dataclasses.asdict(one) for one in self.objects]
        return {"image": str(self.path), "height": self.height, "width": self.width, "objects": objects}

    def to_coco(self) -> list[dict[str, Any]]:
        """Return the objects in COCO's results format, with "file_name" beside it."""
        corners = ((one, *one.box) for one in self.objects)
        return [
            {
                "image_id": self.image_id,
                "category_id": one.category_id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": one.score,
                "file_name": str(self.path),
            }
            for one, x1, y1, x2, y2 in corners
        ]

    def to_rows(self) -> list[tuple[object, ...]]:
        """Return the cells of `COLUMNS` for each object."""
        return [(self.path, *one.box, one.score, one.label, one.name, one.category_id) for one in self.objects]

    def to_text(self) -> list[str]:
        """Return the path, and "  91.27%  cat  x1 y1 x2 y2" for each object."""
        boxes = ("{:.1f} {:.1f} {:.1f} {:.1f}".format(*one.box) for one in self.objects)
        found = [f"{one.score:8.2%}  {one.name}  {box}" for one, box in zip(self.objects, boxes, strict=True)]
        return [str(self.path), *(found or ["          nothing found"])]


@dataclasses.dataclass(frozen=True)
class Placed:
    """An image prepared for a detector.

    Attributes:
      canvas: float32 [h, w, 3], normalised, the image at the top left, zeros elsewhere.
      size: height and width of the image on the canvas.
      original: height and width of the image before it was resized.
    """

    canvas: np.ndarray
    size: tuple[int, int]
    original: tuple[int, int]


def place(detector: DetectorProgram, pixels: np.ndarray) -> Placed:
    """Resize and normalise an image, uint8 [h, w, 3], or grey [h, w, 1], and place it on its canvas."""
    described, pixels = detector.described, with_channels(pixels, 3)
    original, preparation = pixels.shape[:2], described.preparation
    canvas = described.canvas_of(*original)
    resized, _ = preparation.resized(pixels, canvas)
    placed = on_canvas(normalise(resized, preparation.mean, preparation.std), canvas)
    return Placed(placed, resized.shape[:2], original)


@dataclasses.dataclass
class _Waiting:
    """An image on its way: first placed, or broken, then with its result."""

    path: Path | None
    image: Placed | BrokenImage | None
    result: DetectedImage | BrokenImage | None = None


def predict_boxes(
    detector: DetectorProgram,
    pictures: Iterable[Picture],
    *,
    threshold: float,
    batch_size: int,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Iterator[DetectedImage | BrokenImage]:
    """Yield the objects in each image, in order, or the error if it cannot be read.

    Images of one orientation are computed together. All batches have the same size: `batch_size` images, or all if
    there are fewer. Threads prepare the next images in the meantime.

    Args:
      detector: the detector and its preprocessing.
      pictures: image files, or images in memory.
      threshold: least score, at least that of the detector.
      batch_size: images per batch.
      max_megapixels: limit of the images' size, in million pixels.

    Raises:
      UserError: as for `detect_objects`.
    """
    line = deque[_Waiting]()
    together = defaultdict[tuple[int, ...], list[_Waiting]](list)  # by canvas
    rows = 0

    def finish(canvas: tuple[int, ...]) -> None:
        ready = together.pop(canvas)
        images = [cast(Placed, one.image) for one in ready]
        found = detect_objects(detector, images, threshold=threshold, rows=rows)
        for one, image, objects in zip(ready, images, found, strict=True):
            one.image, one.result = None, DetectedImage(one.path, *image.original, objects)

    def finished() -> Iterator[DetectedImage | BrokenImage]:
        while line and (result := line[0].result):
            line.popleft()
            yield result

    for batch in prepared_batches(
        pictures, lambda pixels: place(detector, pixels), batch_size=batch_size, max_megapixels=max_megapixels
    ):
        rows = rows or len(batch)
        for path, image in batch:
            if isinstance(image, BrokenImage):
                line.append(_Waiting(path, None, image))
                continue
            line.append(_Waiting(path, image))
            ready = together[image.canvas.shape]
            ready.append(line[-1])
            if len(ready) == rows:
                finish(image.canvas.shape)
        yield from finished()
        if len(line) > MOST_WAITING * rows:
            finish(cast(Placed, line[0].image).canvas.shape)
            yield from finished()
    for canvas in list(together):
        finish(canvas)
    yield from finished()


def detect_objects(
    detector: DetectorProgram, images: Sequence[Placed], *, threshold: float, rows: int | None = None
) -> list[list[Detection]]:
    """Return the objects in each image, best first.

    Args:
      detector: the detector.
      images: images from `place`, on canvases of one size; at least one.
      threshold: least score, at least that of the detector.
      rows: number of images to compute with, filled up with black ones: each number is compiled once; None for
        `images`.

    Raises:
      UserError: the results are not finite, or not those of this detector's classes; or the detector itself leaves
        out detections above `threshold`.
    """
    own = detector.described.score_threshold
    if threshold < own:
        raise UserError(f"the detector leaves out detections below {own:g}: give a threshold from {own:g} to 1")
    rows = rows or len(images)
    canvases = np.zeros((rows, *images[0].canvas.shape), np.float32)
    sizes = np.full((rows, 2), images[0].canvas.shape[:2], np.int32)
    for number, image in enumerate(images):
        canvases[number], sizes[number] = image.canvas, image.size
    of_each = detector.detect(canvases, sizes)[: len(images)]
    return [_objects(detector, *each, threshold) for each in zip(of_each, images, strict=True)]


def _objects(detector: DetectorProgram, found: Found, image: Placed, threshold: float) -> list[Detection]:
    """Return the detections that score enough, their boxes in pixels of the original image and within it."""
    classes = detector.described.classes
    if not np.isin(found.labels, np.arange(len(classes.names))).all():
        raise UserError(f"the detector finds classes other than its own {len(classes.names)}: export it again")
    (height, width), (new_height, new_width) = image.original, image.size
    scale = np.array([new_width / width, new_height / height], np.float32)  # as evaluation scales
    boxes = np.clip(found.boxes / np.tile(scale.astype(np.float64), 2), 0, [width, height, width, height])
    rows = zip(boxes.tolist(), found.scores.tolist(), map(int, found.labels), strict=True)
    return [
        Detection(box, score, label, classes.names[label], classes.category_ids[label])
        for box, score, label in rows
        if score >= threshold
    ]


def image_ids(paths: Sequence[Path]) -> tuple[list[int], str]:
    """Return numbers of images and what they are: those that all files are named by, as in COCO, or else 1, 2, 3, …"""
    named = [int(path.stem) for path in paths if NUMBER.fullmatch(path.stem)]
    if len(set(named)) == len(paths):
        return named, "the numbers that the files are named by"
    return list(range(1, len(paths) + 1)), "the images' positions from 1, because they are not all named by numbers"
