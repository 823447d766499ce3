"""Batches of annotated images of one orientation, in an order that is a pure function of seed and epoch."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from cdnv2_jax.data.augment import draw_flip, flip
from cdnv2_jax.data.batches import NOT_BROKEN, RowMaker, sample_random
from cdnv2_jax.data.canvas import CanvasPreparation, flip_boxes, is_landscape, on_canvas, scale_boxes
from cdnv2_jax.data.decode import BrokenImage
from cdnv2_jax.data.watchdog import now_reading
from cdnv2_jax.detection.data.annotations import DetectionSource
from cdnv2_jax.errors import UserError

KEPT_EPOCHS = 4  # some readers are already in the next epoch while others finish this one


def epoch_batches(groups: list[np.ndarray], batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Return the images of one epoch, each batch from a single group: int64 [batches, batch_size].

    As in mmdetection's group sampler, the images of every group are shuffled, the last batch of each is filled with
    random images of that group, and then the batches are shuffled. Every image appears at least once.

    Args:
      groups: for each orientation, the positions of its images in the source.
      batch_size: global batch size.
      seed: seed of the whole stream.
      epoch: from 0.
    """
    random = np.random.default_rng([seed, epoch])
    batches = []
    for group in groups:
        missing = -len(group) % batch_size
        order = [random.permutation(group), random.choice(group, missing)] if len(group) else []
        batches += [np.concatenate(order).reshape(-1, batch_size)] if order else []
    whole = np.concatenate(batches)
    return whole[random.permutation(len(whole))]


class OrientationOrder:
    """The endless stream of training images, in batches that are all landscape or all portrait.

    Attributes:
      steps_per_epoch: ⌈landscapes / batch_size⌉ + ⌈portraits / batch_size⌉.
    """

    def __init__(self, indices: np.ndarray, landscape: np.ndarray, batch_size: int, seed: int):
        """Take positions in the source, in ascending order, and whether each of them is landscape."""
        if not len(indices):
            raise ValueError("an order needs at least one image")
        self._groups = [np.asarray(indices[landscape]), np.asarray(indices[~landscape])]
        self._batch_size, self._seed = batch_size, seed
        self._epochs: dict[int, np.ndarray] = {}
        self.steps_per_epoch = sum(-(-len(group) // batch_size) for group in self._groups)

    def index(self, position: int) -> int:
        """Return the image at `position` of the stream, counted over all hosts."""
        batch, within = divmod(position, self._batch_size)
        epoch, batch = divmod(batch, self.steps_per_epoch)
        return int(self._epoch(epoch)[batch, within])

    def from_index(self, index: int) -> Iterator[int]:
        """Iterate over the image `index` and then each other image of its orientation once."""
        group = next(group for group in self._groups if index in group)
        start = int(np.searchsorted(group, index))
        return (int(group[(start + step) % len(group)]) for step in range(len(group)))

    def _epoch(self, epoch: int) -> np.ndarray:
        made = self._epochs.get(epoch)
        if made is None:
            made = epoch_batches(self._groups, self._batch_size, self._seed, epoch)
            # Replaced, not modified, because other threads may be reading it.
            self._epochs = dict([*self._epochs.items(), (epoch, made)][-KEPT_EPOCHS:])
        return made


def evaluation_order(landscape: np.ndarray, batch_size: int) -> np.ndarray:
    """Return every image once, landscapes first, each orientation padded with −1: int64 [batches · batch_size].

    Args:
      landscape: bool [n], whether each image is landscape.
      batch_size: global batch size.
    """
    groups = [np.flatnonzero(landscape), np.flatnonzero(~landscape)]
    return np.concatenate([np.pad(group, (0, -len(group) % batch_size), constant_values=-1) for group in groups])


MOST_BOXES = 100
"""From an image with more, this many are chosen at random. Most COCO images have fewer than ten."""


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionTrainingRow(RowMaker):
    """Maker of the rows of training batches.

    A row holds "image" (uint8 [h, w, 3], on a canvas), "size" (int32 [2]: height and width of the image on it),
    "boxes" (float32 [100, 4]: x1, y1, x2, y2 in pixels of the canvas), "labels" (int32 [100]), "valid" (bool [100]),
    "index" (int64, of the sample in the source) and "broken" (int64, index of an unreadable sample that this one
    replaces, else −1).

    Attributes:
      seed: seed of order and augmentation.
      preparation: resizing of the images, and their canvases.
      flips: whether to mirror half of the images.
      keep_empty: whether to train on images without objects, too.
    """

    source: DetectionSource
    seed: int
    preparation: CanvasPreparation
    flips: bool = True
    keep_empty: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch; every image appears in them at least once."""
        return self._order.steps_per_epoch

    @property
    def fills_canvas(self) -> bool:
        """Whether every image covers its whole canvas."""
        return self.preparation.fills_canvas(self.source.sizes[self._indices])

    @functools.cached_property
    def _indices(self) -> np.ndarray:
        return self.source.arrays.training_indices(keep_empty=self.keep_empty)

    @functools.cached_property
    def _order(self) -> OrientationOrder:
        indices = self._indices
        if not len(indices):
            raise UserError("no image has a box and sides of at least 32 pixels: there is nothing to train on")
        return OrientationOrder(indices, _landscape(self.source)[indices], self.share.batch_size, self.seed)

    def sample_index(self, row: int) -> int:
        return self._order.index(self.share.position(row))

    def __call__(self, row: int) -> dict[str, Any]:
        random, wanted = sample_random(self.seed, self.share.position(int(row))), self.sample_index(int(row))
        return self.first_readable(self._order.from_index(wanted), lambda index: self._prepared(index, random))

    def _prepared(self, index: int, random: np.random.Generator) -> dict[str, Any]:
        sample = self.ahead.read(self.source, index)
        canvas = self.preparation.canvas_of(sample.height, sample.width)
        image, scale = self.preparation.resized(sample.pixels(max_megapixels=self.max_megapixels), canvas)
        height, width = image.shape[:2]
        boxes = scale_boxes(sample.boxes, scale, (height, width))
        if self.flips and draw_flip(random):
            image, boxes = flip(image), flip_boxes(boxes, width)
        size = np.array([height, width], np.int32)
        return {"image": on_canvas(image, canvas), "size": size, **padded_targets(boxes, sample.labels, random)}


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionEvaluationRow(RowMaker):
    """Maker of the rows of evaluation batches: landscapes, then portraits, each followed by padding.

    A row holds "image" (uint8 [h, w, 3], on a canvas), "size" (int32 [2]: height and width of the image on it),
    "scale" (float32 [2]: scale factors of x and y from the original), "index" (int64, of the sample in the source),
    "real" (bool) and "broken" (int64, index of an unreadable sample, else −1). Padding and unreadable samples are not
    real.

    Attributes:
      preparation: resizing of the images, and their canvases.
      canvas: height and width of the only canvas; None for one of each orientation.
    """

    source: DetectionSource
    preparation: CanvasPreparation
    canvas: tuple[int, int] | None = None

    @property
    def batches(self) -> int:
        """Number of batches that hold every image once."""
        return len(self._order) // self.share.batch_size

    @property
    def fills_canvas(self) -> bool:
        """Whether every image covers its whole canvas."""
        return self.preparation.fills_canvas(self.source.sizes)

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return evaluation_order(_landscape(self.source), self.share.batch_size)

    def sample_index(self, row: int) -> int:
        """As in `RowMaker`; −1 for padding."""
        return int(self._order[self.share.position(row)])

    def __call__(self, row: int) -> dict[str, Any]:
        index = self.sample_index(int(row))
        if index < 0:
            return self._padding(int(row), NOT_BROKEN)
        now_reading(index)
        sample = self.ahead.read(self.source, index)
        canvas = self.canvas or self.preparation.canvas_of(sample.height, sample.width)
        try:
            image, scale = self.preparation.resized(sample.pixels(max_megapixels=self.max_megapixels), canvas)
        except BrokenImage:
            return self._padding(int(row), index)
        return {
            "image": on_canvas(image, canvas),
            "size": np.array(image.shape[:2], np.int32),
            "scale": scale,
            "index": np.int64(index),
            "real": np.bool_(True),
            "broken": np.int64(NOT_BROKEN),
        }

    def _padding(self, row: int, broken: int) -> dict[str, Any]:
        """Return a black row of the same shape as its batch."""
        position = self.share.position(row)
        first = int(self._order[position - position % self.share.batch_size])  # a batch starts with a real image
        canvas = self.canvas or self.preparation.canvas_of(*self.source.sizes[first].tolist())
        return {
            "image": np.zeros((*canvas, 3), np.uint8),
            "size": np.array(canvas, np.int32),
            "scale": np.ones(2, np.float32),
            "index": np.int64(0),
            "real": np.bool_(False),
            "broken": np.int64(broken),
        }


def padded_targets(boxes: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return "boxes" [100, 4], "labels" [100] and "valid" [100], padded with zeros; choose 100 at random from more."""
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
    """Return whether each image is landscape: bool [n]."""
    return np.array([is_landscape(height, width) for height, width in source.sizes.tolist()], bool)
