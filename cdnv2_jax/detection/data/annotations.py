"""Annotated images: one sample, what a source gives, and all annotations as flat arrays."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class DetectionSample:
    """One image and the objects to be learnt from it.

    Attributes:
      image: an encoded image file (JPEG, PNG, …), or pixels, uint8 [height, width, 3].
      height, width: of the image, pixels.
      boxes: float32 [n, 4], x1, y1, x2, y2 in pixels; only those that training aims at (see `is_target`).
      labels: int32 [n], positions in the source's `class_names`.
      image_id: what the annotations call the image.
      name: what a message calls it: a path, "train image 17".
    """

    image: bytes | np.ndarray
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    image_id: int
    name: str


class DetectionSource(Protocol):
    """Annotated images in a fixed order, each found by its position alone; sent to worker processes by pickling.

    Attributes:
      class_names: of all classes, in the order of their labels.
      category_ids: label → what the annotations call that class.
      sizes: integers [len, 2], height and width of every image, known without reading any.
    """

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def category_ids(self) -> Sequence[int]: ...

    @property
    def sizes(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> DetectionSample: ...

    def training_indices(self) -> np.ndarray:
        """Integers [n]: the images that can be trained on, in order."""
        ...

    def annotations(self) -> dict[str, Any]:
        """All of the ground truth in COCO's form, as `pycocotools` reads it: images, annotations, categories."""
        ...


SMALLEST_SIDE = 32
"""Images with a shorter side than that, in pixels, are not trained on (as mmdetection 2.11)."""


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotationArrays:
    """n images with m annotations in all; those of image i are ends[i] … ends[i + 1] − 1.

    Attributes:
      image_ids: int64 [n]. sizes: int32 [n, 2], height and width in pixels. ends: int64 [n + 1], from 0 to m.
      ids: int64 [m], of the annotations. labels: int32 [m], from 0.
      boxes: float64 [m, 4], x, y, width, height in pixels, as annotated. areas: float64 [m], of the objects, pixels.
      crowd, ignored: bool [m], the annotation's flags `iscrowd` and `ignore`.
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

    def __len__(self) -> int:
        return len(self.image_ids)

    def targets(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What training aims at in one image: boxes float32 [n, 4] as x1, y1, x2, y2, labels int32 [n]."""
        own = slice(self.ends[index], self.ends[index + 1])
        boxes = self.boxes[own]
        chosen = is_target(boxes, self.areas[own], self.crowd[own] | self.ignored[own], self.sizes[index][None])
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        return corners[chosen].astype(np.float32), self.labels[own][chosen]

    def training_indices(self) -> np.ndarray:
        """int64 [k]: the images with a box to aim at and both sides of at least 32 pixels."""
        owners = np.repeat(np.arange(len(self)), np.diff(self.ends))
        chosen = is_target(self.boxes, self.areas, self.crowd | self.ignored, self.sizes[owners])
        boxes = np.bincount(owners[chosen], minlength=len(self))
        return np.flatnonzero((boxes > 0) & (self.sizes.min(axis=1, initial=2**31 - 1) >= SMALLEST_SIDE))

    def coco_dict(self, class_names: Sequence[str], category_ids: Sequence[int]) -> dict[str, Any]:
        """All annotations in COCO's form, without segmentations."""
        owners = np.repeat(self.image_ids, np.diff(self.ends))
        columns = (self.ids, owners, self.labels, self.boxes, self.areas, self.crowd, self.ignored)
        return {
            "images": [
                {"id": image, "height": height, "width": width}
                for image, (height, width) in zip(self.image_ids.tolist(), self.sizes.tolist(), strict=True)
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": image,
                    "category_id": int(category_ids[label]),
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                    "ignore": int(ignored),
                }
                for number, image, label, box, area, crowd, ignored in zip(
                    *(column.tolist() for column in columns), strict=True
                )
            ],
            "categories": [
                {"id": int(number), "name": name} for number, name in zip(category_ids, class_names, strict=True)
            ],
        }


def is_target(boxes: np.ndarray, areas: np.ndarray, passed_over: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """bool [m]: which annotations training aims at (as mmdetection 2.11).

    Not those that are marked as a crowd or to be ignored, lie outside of their image, are narrower or lower than one
    pixel, or have no area. Anchors on a crowd therefore count as background.

    Args:
      boxes: [m, 4], x, y, width, height. areas: [m]. passed_over: bool [m], crowds and what is to be ignored.
      sizes: [m, 2] or [1, 2], height and width of each one's image.
    """
    low, extent = boxes[:, :2], boxes[:, 2:]
    inside = np.minimum(low + extent, sizes[:, ::-1]) - np.maximum(low, 0)
    return ~passed_over & (inside > 0).all(axis=1) & (extent >= 1).all(axis=1) & (areas > 0)
