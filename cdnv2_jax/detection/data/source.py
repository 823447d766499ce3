"""What every source of images with boxes gives, wherever it keeps them."""

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
