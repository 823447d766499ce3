"""The held-out images that a report shows, as far as they are still where the run found them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.data import source_of
from cdnv2_jax.data.decode import decode
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.data.open import open_source
from cdnv2_jax.detection.pictures import example_pictures
from cdnv2_jax.errors import UserError

Picture = Callable[[int], np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class Examples:
    """A classifier's held-out images.

    Attributes:
      names: of the classes. count: of the images; None where they are not at hand.
      picture: position → pixels, uint8 [h, w, 3], or None for an image that cannot be read; None likewise.
      notes: why there are none.
    """

    names: Sequence[str]
    count: int | None = None
    picture: Picture | None = None
    notes: Sequence[str] = ()


def classifier_examples(config: ClassificationConfig) -> Examples:
    """The held-out images of a config; without their data, classes by number and a note."""
    try:
        source = source_of(config, "val")
    except UserError as error:
        return Examples([f"class {label}" for label in range(config.model.num_classes)], notes=[_missing(error)])

    def picture(index: int) -> np.ndarray | None:
        try:
            sample = source[index]
            return decode(sample.image, sample.name) if isinstance(sample.image, bytes) else sample.image
        except (UserError, OSError):
            return None

    return Examples(source.class_names, len(source), picture)


def detector_pictures(config: DetectionConfig, results: Sequence[dict[str, Any]]) -> tuple[list[np.ndarray], list[str]]:
    """Images with what was found on them, and notes; without their data a note alone.

    Raises:
      KeyError, TypeError, ValueError, …: results that are none.
    """
    data = config.data
    try:
        source = open_source(data.source, directory=data.directory, split="val", shapes=data.shapes_images)
    except UserError as error:
        return [], [_missing(error)]
    return example_pictures(source, results), []


def _missing(error: UserError) -> str:
    return f"The held-out images are not at hand: {error}"
