"""Annotated images → rows of batches of one orientation; their order is a pure function of seed and epoch."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from cdnv2_jax.data.augment import draw_flip, flip
from cdnv2_jax.data.batches import NOT_BROKEN, RowMaker, sample_random
from cdnv2_jax.data.canvas import CanvasPreparation, flip_boxes, is_landscape, on_canvas, scale_boxes
from cdnv2_jax.data.decode import BrokenImage
from cdnv2_jax.detection.data.annotations import DetectionSample, DetectionSource
from cdnv2_jax.errors import UserError

KEPT_EPOCHS = 4  # readers run ahead into the next epoch while others finish this one


def epoch_batches(groups: list[np.ndarray], batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """int64 [batches, batch_size]: the images of one epoch, each batch out of a single group.

    As mmdetection's group sampler: the images of every group are shuffled, the last batch of each is filled with
    random others of that group, and then the batches are shuffled. So every image comes at least once.

    Args:
      groups: the images of each orientation, positions in the source.
      batch_size: of the global batch.
      seed: of the whole stream.
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
        """Takes positions in the source, in rising order, and whether each of them is landscape."""
        if not len(indices):
            raise ValueError("an order of no images")
        self._groups = [np.asarray(indices[landscape]), np.asarray(indices[~landscape])]
        self._batch_size, self._seed = batch_size, seed
        self._epochs: dict[int, np.ndarray] = {}
        self.steps_per_epoch = sum(-(-len(group) // batch_size) for group in self._groups)

    def index(self, position: int) -> int:
        """The image at `position` of the stream, counted over all hosts."""
        batch, within = divmod(position, self._batch_size)
        epoch, batch = divmod(batch, self.steps_per_epoch)
        return int(self._epoch(epoch)[batch, within])

    def from_index(self, index: int) -> Iterator[int]:
        """The image `index`, then each of the others of its orientation once."""
        group = next(group for group in self._groups if index in group)
        start = int(np.searchsorted(group, index))
        return (int(group[(start + step) % len(group)]) for step in range(len(group)))

    def _epoch(self, epoch: int) -> np.ndarray:
        made = self._epochs.get(epoch)
        if made is None:
            made = epoch_batches(self._groups, self._batch_size, self._seed, epoch)
            # Replaced, not changed: other threads may be reading it.
            self._epochs = dict([*self._epochs.items(), (epoch, made)][-KEPT_EPOCHS:])
        return made


def evaluation_order(landscape: np.ndarray, batch_size: int) -> np.ndarray:
    """int64 [batches · batch_size]: every image once, landscapes first, each orientation padded with −1.

    Args:
      landscape: bool [n], of all images.
      batch_size: of the global batch.
    """
    groups = [np.flatnonzero(landscape), np.flatnonzero(~landscape)]
    return np.concatenate([np.pad(group, (0, -len(group) % batch_size), constant_values=-1) for group in groups])


MOST_BOXES = 100
"""An image with more keeps that many at random. Most images of COCO have fewer than ten."""


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionTrainingRow(RowMaker):
    """Makes the rows of training batches.

    A row holds "image" (uint8 [h, w, 3], on a canvas), "size" (int32 [2]: height and width of the image on it),
    "boxes" (float32 [100, 4]: x1, y1, x2, y2 in pixels of the canvas), "labels" (int32 [100]), "valid" (bool [100]),
    "index" (int64, of the sample in the source) and "broken" (int64, index of an unreadable sample that this one
    replaces, else −1).

    Attributes:
      seed: of order and augmentation.
      preparation: how images are resized; it gives the canvases too.
      flips: mirror half of the images.
    """

    source: DetectionSource
    seed: int
    preparation: CanvasPreparation
    flips: bool = True

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every image comes at least once."""
        return self._order.steps_per_epoch

    @property
    def fills_canvas(self) -> bool:
        """Whether every image covers its whole canvas."""
        return self.preparation.fills_canvas(self.source.sizes[self.source.arrays.training_indices()])

    @functools.cached_property
    def _order(self) -> OrientationOrder:
        indices = self.source.arrays.training_indices()
        if not len(indices):
            raise UserError("no image has a box and sides of at least 32 pixels: there is nothing to train on")
        return OrientationOrder(indices, _landscape(self.source)[indices], self.share.batch_size, self.seed)

    def sample_index(self, row: int) -> int:
        return self._order.index(self.share.position(row))

    def __call__(self, row: int) -> dict[str, Any]:
        random, wanted = sample_random(self.seed, self.share.position(int(row))), self.sample_index(int(row))
        return self.first_readable(self._order.from_index(wanted), lambda index: self._prepared(index, random))

    def _prepared(self, index: int, random: np.random.Generator) -> dict[str, Any]:
        sample = self.source[index]
        canvas = self.preparation.canvas_of(sample.height, sample.width)
        image, scale = self.preparation.resized(_pixels(sample), canvas)
        height, width = image.shape[:2]
        boxes = scale_boxes(sample.boxes, scale, (height, width))
        if self.flips and draw_flip(random):
            image, boxes = flip(image), flip_boxes(boxes, width)
        size = np.array([height, width], np.int32)
        return {"image": on_canvas(image, canvas), "size": size, **padded_targets(boxes, sample.labels, random)}


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionEvaluationRow(RowMaker):
    """Makes the rows of evaluation batches: landscapes, then portraits, each followed by padding.

    A row holds "image" (uint8 [h, w, 3], on a canvas), "size" (int32 [2]: height and width of the image on it),
    "scale" (float32 [2]: by which x and y of the original were multiplied), "image_id" (int64), "real" (bool) and
    "broken" (int64, index of an unreadable sample, else −1). Padding and unreadable samples are not real.

    Attributes:
      preparation: what is done to the images.
    """

    source: DetectionSource
    preparation: CanvasPreparation

    @property
    def batches(self) -> int:
        """How many of them hold every image once."""
        return len(self._order) // self.share.batch_size

    @property
    def fills_canvas(self) -> bool:
        """Whether every image covers its whole canvas."""
        return self.preparation.fills_canvas(self.source.sizes)

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return evaluation_order(_landscape(self.source), self.share.batch_size)

    def sample_index(self, row: int) -> int:
        """As `RowMaker`; −1 for padding."""
        return int(self._order[self.share.position(row)])

    def __call__(self, row: int) -> dict[str, Any]:
        index = self.sample_index(int(row))
        if index < 0:
            return self._padding(int(row), NOT_BROKEN)
        sample = self.source[index]
        canvas = self.preparation.canvas_of(sample.height, sample.width)
        try:
            image, scale = self.preparation.resized(_pixels(sample), canvas)
        except BrokenImage:
            return self._padding(int(row), index)
        return {
            "image": on_canvas(image, canvas),
            "size": np.array(image.shape[:2], np.int32),
            "scale": scale,
            "image_id": np.int64(sample.image_id),
            "real": np.bool_(True),
            "broken": np.int64(NOT_BROKEN),
        }

    def _padding(self, row: int, broken: int) -> dict[str, Any]:
        """Black, of the shape that its batch has."""
        position = self.share.position(row)
        first = int(self._order[position - position % self.share.batch_size])  # a batch begins with a real one
        canvas = self.preparation.canvas_of(*self.source.sizes[first].tolist())
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
    pixels = sample.pixels()
    height, width = pixels.shape[:2]
    if (height, width) != (sample.height, sample.width):
        raise UserError(
            f"{sample.name} is {width} × {height} pixels, its annotations are for {sample.width} × {sample.height}: "
            "use the original image"
        )
    return pixels
