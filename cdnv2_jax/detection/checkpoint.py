"""Saving and loading a detector: its arrays, what it is made of, and the classes it tells apart."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.detection.build import build_detector
from cdnv2_jax.detection.data.canvas import KEY, CanvasPreparation
from cdnv2_jax.detection.detector import PyramidDetector
from cdnv2_jax.detection.settings import DetectorSettings
from cdnv2_jax.errors import UserError
from cdnv2_jax.weights.arrays import read_description
from cdnv2_jax.weights.checkpoint import describe_network, described_network, fill_module, write_module

FORMAT = 1
KIND = "detector"


@dataclasses.dataclass(frozen=True)
class Classes:
    """What a detector's labels stand for.

    Attributes:
      names: of the classes. category_ids: of the same in COCO's files.
    """

    names: Sequence[str]
    category_ids: Sequence[int]

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "category_ids", tuple(int(number) for number in self.category_ids))


def save_detector(
    path: Path,
    detector: PyramidDetector,
    classes: Classes,
    *,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Saves a detector as the directory `path`, all of it or nothing; UserError when it exists, unless `overwrite`."""
    description = {
        "format": FORMAT,
        "kind": KIND,
        "settings": dataclasses.asdict(detector.settings),
        "backbone": describe_network(detector.backbone),
        "classes": dataclasses.asdict(classes),
        "metadata": dict(metadata or {}),
    }
    write_module(path, detector, description, overwrite=overwrite)


def load_detector(path: Path, *, dtype: DTypeLike | None = None) -> tuple[PyramidDetector, Classes]:
    """(detector in evaluation mode, its classes), as saved by `save_detector`.

    Args:
      path: the directory.
      dtype: of the computation; None for that of the parameters.

    Raises:
      UserError: nothing there, another kind of checkpoint, damaged, or holding NaN.
    """
    description = read_description(path)
    if description.get("kind") != KIND:
        raise UserError(f"{path} holds a classifier, not a detector")
    try:
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']}")
        settings, classes = DetectorSettings(**description["settings"]), Classes(**description["classes"])
        backbone = described_network(description["backbone"], dtype=dtype)
        detector = nnx.eval_shape(lambda: build_detector(settings, backbone, dtype=dtype, rngs=nnx.Rngs(0)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its description is not one of format {FORMAT} ({error})") from error
    detector.eval()
    fill_module(path, detector, description)
    return detector, classes


def preparation_of(path: Path) -> CanvasPreparation:
    """That of the detector at `path`, a checkpoint; where it does not say, that of COCO's recipe.

    Raises:
      UserError: it says something that cannot be.
    """
    said: Mapping[str, Any] = read_description(path).get("metadata", {}).get(KEY, {})
    try:
        return CanvasPreparation(**said)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: how to use the detector is not said as it should be ({error})") from error
