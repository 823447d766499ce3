"""Annotated images → rows of batches, all of a batch with one orientation; see `host_batches`."""

import dataclasses
import functools
from typing import Any

import cv2
import numpy as np

from cdnv2_jax.data.augment.flip import draw_flip, flip
from cdnv2_jax.data.decode import BrokenImage, decode_fast
from cdnv2_jax.data.order import Share, sample_random
from cdnv2_jax.data.pipeline import NOT_BROKEN, first_readable
from cdnv2_jax.detection.data.canvas import (
    LONG_SIDE,
    SHORT_SIDE,
    canvas_size,
    fill_canvas,
    flip_boxes,
    is_landscape,
    on_canvas,
    resize,
    resized_size,
    scale_boxes,
)
from cdnv2_jax.detection.data.order import OrientationOrder, evaluation_order
from cdnv2_jax.detection.data.source import DetectionSample, DetectionSource
from cdnv2_jax.errors import UserError

cv2.setNumThreads(0)  # many processes do this side by side, and threads of each would only get in the way

MOST_BOXES = 100
"""Of an image with more, that many are drawn at random. Most images of COCO have fewer than ten."""


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionTrainingRow:
    """Makes the rows of training batches; called by position in the host's share of the stream.

    A row holds "image" (uint8 [h, w, 3], on a canvas), "size" (int32 [2]: height and width of the image on it),
    "boxes" (float32 [100, 4]: x1, y1, x2, y2 in pixels of the canvas), "labels" (int32 [100]), "valid" (bool [100]),
    "index" (int64, of the sample in the source) and "broken" (int64, index of an unreadable sample whose place this
    one takes, else −1).

    Attributes:
      short_side, long_side: what images are resized to, see `resized_size`; they give the canvases too.
      flips: exchange left and right of one image in two.
    """

    source: DetectionSource
    share: Share
    seed: int
    short_side: int = SHORT_SIDE
    long_side: int = LONG_SIDE
    flips: bool = True

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every image comes at least once."""
        return self._order.steps_per_epoch

    @property
    def fills_canvas(self) -> bool:
        """Whether no image leaves anything of its canvas free."""
        return fill_canvas(self.source.sizes[self.source.training_indices()], self.short_side, self.long_side)

    @functools.cached_property
    def _order(self) -> OrientationOrder:
        indices = self.source.training_indices()
        if not len(indices):
            raise UserError("no image has a box and sides of at least 32 pixels: there is nothing to train on")
        return OrientationOrder(indices, _landscape(self.source)[indices], self.share.batch_size, self.seed)

    def sample_index(self, row: int) -> int:
        """Position in the source of the sample that `row` shows."""
        return self._order.index(self.share.position(row))

    def __call__(self, row: int) -> dict[str, Any]:
        position, wanted = self.share.position(int(row)), self.sample_index(int(row))
        random = sample_random(self.seed, position)
        index, made = first_readable(self._order.from_index(wanted), lambda index: self._made(index, random))
        broken = NOT_BROKEN if index == wanted else wanted
        return made | {"index": np.int64(index), "broken": np.int64(broken)}

    def _made(self, index: int, random: np.random.Generator) -> dict[str, np.ndarray]:
        sample = self.source[index]
        size = resized_size(sample.height, sample.width, self.short_side, self.long_side)
        image, scale = resize(_pixels(sample), size)
        boxes = scale_boxes(sample.boxes, scale, size)
        if self.flips and draw_flip(random):
            image, boxes = flip(image), flip_boxes(boxes, size[1])
        canvas = canvas_size(is_landscape(sample.height, sample.width), self.short_side, self.long_side)
        size_array = np.array(size, np.int32)
        return {"image": on_canvas(image, canvas), "size": size_array, **padded_targets(boxes, sample.labels, random)}


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionEvaluationRow:
    """Makes the rows of evaluation batches: landscapes, then portraits, each followed by rows that are not real.

    A row holds "image" (uint8 [h, w, 3], on a canvas), "size" (int32 [2]: height and width of the image on it),
    "scale" (float32 [2]: by which x and y of the original were multiplied), "image_id" (int64), "real" (bool) and
    "broken" (int64, index of an unreadable sample, else −1; such a row is not real).

    Attributes:
      short_side, long_side: as in `DetectionTrainingRow`.
    """

    source: DetectionSource
    share: Share
    short_side: int = SHORT_SIDE
    long_side: int = LONG_SIDE

    @property
    def batches(self) -> int:
        """How many of them hold every image once."""
        return len(self._order) // self.share.batch_size

    @property
    def fills_canvas(self) -> bool:
        """Whether no image leaves anything of its canvas free."""
        return fill_canvas(self.source.sizes, self.short_side, self.long_side)

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return evaluation_order(_landscape(self.source), self.share.batch_size)

    def sample_index(self, row: int) -> int:
        """Position in the source of the sample that `row` shows; −1 where it is not real."""
        return int(self._order[self.share.position(row)])

    def __call__(self, row: int) -> dict[str, Any]:
        index = self.sample_index(int(row))
        if index < 0:
            return self._filler(int(row), NOT_BROKEN)
        sample = self.source[index]
        size = resized_size(sample.height, sample.width, self.short_side, self.long_side)
        try:
            image, scale = resize(_pixels(sample), size)
        except BrokenImage:
            return self._filler(int(row), index)
        canvas = canvas_size(is_landscape(sample.height, sample.width), self.short_side, self.long_side)
        return {
            "image": on_canvas(image, canvas),
            "size": np.array(size, np.int32),
            "scale": scale,
            "image_id": np.int64(sample.image_id),
            "real": np.bool_(True),
            "broken": np.int64(NOT_BROKEN),
        }

    def _filler(self, row: int, broken: int) -> dict[str, Any]:
        """Black, of the shape that its batch has."""
        position = self.share.position(row)
        first = int(self._order[position - position % self.share.batch_size])  # a batch begins with a real one
        height, width = self.source.sizes[first]
        canvas = canvas_size(is_landscape(height, width), self.short_side, self.long_side)
        return {
            "image": np.zeros((*canvas, 3), np.uint8),
            "size": np.array(canvas, np.int32),
            "scale": np.ones(2, np.float32),
            "image_id": np.int64(0),
            "real": np.bool_(False),
            "broken": np.int64(broken),
        }


def padded_targets(boxes: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
    """ "boxes" [100, 4], "labels" [100] and "valid" [100]: zeros after the last; of more than 100, 100 at random."""
    if len(boxes) > MOST_BOXES:
        kept = np.sort(random.choice(len(boxes), MOST_BOXES, replace=False))
        boxes, labels = boxes[kept], labels[kept]
    missing = MOST_BOXES - len(boxes)
    return {
        "boxes": np.pad(boxes, ((0, missing), (0, 0))).astype(np.float32),
        "labels": np.pad(labels, (0, missing)).astype(np.int32),
        "valid": np.arange(MOST_BOXES) < len(boxes),
    }


def _landscape(source: DetectionSource) -> np.ndarray:
    """bool [n], of all images."""
    return np.array([is_landscape(height, width) for height, width in source.sizes.tolist()], bool)


def _pixels(sample: DetectionSample) -> np.ndarray:
    """uint8 [h, w, 3]; BrokenImage, or UserError when it has another size than its annotations say."""
    pixels = decode_fast(sample.image, sample.name) if isinstance(sample.image, bytes) else sample.image
    height, width = pixels.shape[:2]
    if (height, width) != (sample.height, sample.width):
        raise UserError(
            f"{sample.name} is {width} × {height} pixels, its annotations are for {sample.width} × {sample.height}: "
            "use the original image"
        )
    return pixels
