"""Annotated images: one sample, all annotations as flat arrays, and the base class of their sources."""

import abc
import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cdnv2_jax.data.decode import MAX_MEGAPIXELS, BrokenImage, encoded_size
from cdnv2_jax.data.source import Picture, Source, fingerprint
from cdnv2_jax.data.storage import at_once
from cdnv2_jax.errors import UserError

Id = int | str
"""Id of an image or a category; COCO's are numbers, other data sets also have text."""

SMALLEST_SIDE = 32
"""Images whose shorter side is below this, in pixels, are not trained on (as in mmdetection 2.11)."""


@dataclasses.dataclass(frozen=True)
class DetectionSample(Picture):
    """One image and its training targets.

    Attributes:
      image: an encoded image file (JPEG, PNG, …), or pixels, uint8 [height, width, 3].
      height: height of the image in pixels, as annotated.
      width: width of the image in pixels, as annotated.
      boxes: float32 [n, 4], x1, y1, x2, y2 in pixels; only training targets (see `is_target`).
      labels: int32 [n], indices into the source's `class_names`.
      image_id: the image's id in the annotations.
      name: name of the image in messages: a path, or "train image 17".
      upright: whether it was annotated as its EXIF orientation turns it, not as stored.
    """

    image: bytes | np.ndarray
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    image_id: Id
    name: str
    upright: bool = True

    def pixels(self, upright: bool = True, *, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
        """Return uint8 [height, width, 3], in the orientation in which the image was annotated.

        Raises:
          BrokenImage: the image cannot be decoded.
          UserError: its size differs from the annotated one.
        """
        upright = upright and self.upright
        pixels = super().pixels(upright, max_megapixels=max_megapixels)
        self._check_size(pixels.shape[:2])
        return pixels

    def check_size(self) -> None:
        """Check an encoded image as `pixels` does, by its header alone."""
        if isinstance(self.image, bytes):
            self._check_size(encoded_size(self.image, self.name, upright=self.upright))

    def _check_size(self, size: Sequence[int]) -> None:
        height, width = size
        if (height, width) == (self.height, self.width):
            return
        given = f"{self.name} is {width} × {height} pixels, its annotations are for {self.width} × {self.height}"
        if isinstance(self.image, bytes) and (
            encoded_size(self.image, self.name, upright=not self.upright) == (self.height, self.width)
        ):
            turned, instead = ("as its EXIF orientation says", False) if self.upright else ("as stored", True)
            raise UserError(f"{given}: it is read {turned}, so set config.data.exif_orientation={instead}")
        raise UserError(f"{given}: use the original image")


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotationArrays:
    """n images with m annotations in all; those of image i are ends[i] … ends[i + 1] − 1.

    Attributes:
      image_ids: int64 [n], or objects (`Id`) if some ids are text.
      sizes: int32 [n, 2], height and width in pixels.
      ends: int64 [n + 1], from 0 to m.
      ids: int64 [m], ids of the annotations.
      labels: int32 [m], from 0.
      boxes: float64 [m, 4], x, y, width, height in pixels, as annotated.
      areas: float64 [m], areas of the objects in pixels.
      crowd: bool [m], the annotation's flag `iscrowd`.
      ignored: bool [m], the annotation's flag `ignore`.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    ends: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray

    def targets(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the training targets of one image: boxes float32 [n, 4] as x1, y1, x2, y2, labels int32 [n]."""
        own = slice(self.ends[index], self.ends[index + 1])
        boxes = self.boxes[own]
        chosen = is_target(boxes, self.areas[own], self.crowd[own] | self.ignored[own], self.sizes[index][None])
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        return corners[chosen].astype(np.float32), self.labels[own][chosen]

    def target_counts(self) -> np.ndarray:
        """Return the number of training targets of each image: int64 [n]."""
        owners = np.repeat(np.arange(len(self.image_ids)), np.diff(self.ends))
        chosen = is_target(self.boxes, self.areas, self.crowd | self.ignored, self.sizes[owners])
        return np.bincount(owners[chosen], minlength=len(self.image_ids))

    def large_enough(self) -> np.ndarray:
        """Return whether both sides of each image have at least 32 pixels: bool [n]."""
        return self.sizes.min(axis=1, initial=2**31 - 1) >= SMALLEST_SIDE

    def training_indices(self, *, keep_empty: bool = False) -> np.ndarray:
        """Return the images with a target and sides of at least 32 pixels, in ascending order: int64 [k].

        Args:
          keep_empty: also return those without any annotation. An image of crowds alone is not one of them, because
            anchors on them would count as background.
        """
        empty = np.diff(self.ends) == 0
        wanted = (self.target_counts() > 0) | (empty if keep_empty else np.zeros_like(empty))
        return np.flatnonzero(wanted & self.large_enough())


class DetectionSource(Source[DetectionSample]):
    """Annotated images in a fixed order; subclasses read their files.

    Attributes:
      arrays: all annotations.
      class_names: names of all classes, in the order of their labels.
      category_ids: label → id of the class in the annotations.
      remarks: as of every source.
      upright: whether the images were annotated as their EXIF orientation turns them, not as stored.
    """

    upright: bool = True

    def __init__(
        self,
        arrays: AnnotationArrays,
        class_names: Sequence[str],
        category_ids: Sequence[Id],
        remarks: Sequence[str] = (),
    ):
        self.arrays, self.class_names, self.category_ids = arrays, list(class_names), list(category_ids)
        self.remarks = list(remarks)

    @abc.abstractmethod
    def encoded(self, index: int) -> tuple[bytes, str]:
        """Return the image file at `index` (at least 0) and its name for messages; UserError if it cannot be read."""

    @property
    def sizes(self) -> np.ndarray:
        """int32 [n, 2]: height and width of every image."""
        return self.arrays.sizes

    def __len__(self) -> int:
        return len(self.arrays.image_ids)

    def __getitem__(self, index: int) -> DetectionSample:
        index = range(len(self))[index]
        encoded, name = self.encoded(index)
        (height, width), (boxes, labels) = self.sizes[index].tolist(), self.arrays.targets(index)
        return DetectionSample(
            encoded, height, width, boxes, labels, self.arrays.image_ids[[index]].tolist()[0], name, self.upright
        )

    @property
    def image_ids(self) -> list[Id]:
        """Ids of all images, as the annotations have them."""
        return self.arrays.image_ids.tolist()

    @property
    def is_annotated(self) -> bool:
        """Whether there is any annotation; without one nothing can be scored."""
        return len(self.arrays.ids) > 0

    def image_names(self) -> Sequence[Id]:
        """Return a name for each image that does not depend on where it is stored."""
        return self.image_ids

    def fingerprint(self) -> str:
        """Return a hash of names, sizes in pixels, boxes and labels of all images; reads no image."""
        texts = (self.class_names, self.category_ids, self.image_ids, self.image_names())
        a = self.arrays
        return fingerprint(
            *(map(str, each) for each in texts), a.sizes, a.ends, a.labels, a.boxes, a.areas, a.crowd, a.ignored
        )

    def check_sizes(self, most: int = 64) -> None:
        """Check the sizes of up to `most` images, evenly spaced; UserError if one is not as annotated."""
        indices = np.unique(np.linspace(0, len(self) - 1, most).astype(int)).tolist()
        for sample in at_once(self.__getitem__, indices, in_bucket=self.in_bucket):
            with contextlib.suppress(BrokenImage):  # skipped or refused where it is read
                sample.check_size()

    def annotations(self) -> dict[str, Any]:
        """Return the ground truth in COCO's format, as `pycocotools` reads it, without segmentations."""
        arrays = self.arrays
        sizes = zip(self.image_ids, arrays.sizes.tolist(), strict=True)
        owners = np.repeat(arrays.image_ids, np.diff(arrays.ends))
        category = np.array(self.category_ids, object)[arrays.labels]
        columns = {
            "id": arrays.ids,
            "image_id": owners,
            "category_id": category,
            "bbox": arrays.boxes,
            "area": arrays.areas,
            "iscrowd": arrays.crowd.astype(int),
            "ignore": arrays.ignored.astype(int),
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        categories = zip(self.category_ids, self.class_names, strict=True)
        return {
            "images": [{"id": image, "height": height, "width": width} for image, (height, width) in sizes],
            "annotations": [dict(zip(columns, row, strict=True)) for row in rows],
            "categories": [{"id": number, "name": name} for number, name in categories],
        }


def is_target(boxes: np.ndarray, areas: np.ndarray, skipped: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return which annotations are training targets (as in mmdetection 2.11): bool [m].

    Excluded are crowds, annotations to be ignored, and boxes outside their image, narrower or lower than one pixel, or
    without area. Anchors on a crowd therefore count as background.

    Args:
      boxes: [m, 4], x, y, width, height.
      areas: [m].
      skipped: bool [m], crowds and annotations to be ignored.
      sizes: [m, 2] or [1, 2], height and width of each box's image.
    """
    low, extent = boxes[:, :2], boxes[:, 2:]
    inside = np.minimum(low + extent, sizes[:, ::-1]) - np.maximum(low, 0)
    return ~skipped & (inside > 0).all(axis=1) & (extent >= 1).all(axis=1) & (areas > 0)
