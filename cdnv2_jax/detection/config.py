"""What an experiment in detection is made of."""

import dataclasses
import difflib
from typing import Any, Literal

from cdnv2_jax.detection.data.canvas import CanvasPreparation
from cdnv2_jax.detection.settings import DetectorSettings
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.training.config import Dtype, RunConfig, SourceConfig


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """Attributes:
    detector: which of the two. num_classes: without the background.
    settings: further fields of `DetectorSettings`, such as `frozen_stages`.
    backbone: a classifier of the registry. overrides: of its architecture.
    checkpoint: of that classifier, ours or official, masked or condensed; "" to start from drawn weights.
    dtype: of the computation; parameters and the arithmetic of boxes stay float32.
    """

    detector: Literal["retinanet", "faster_rcnn"]
    backbone: str
    num_classes: int
    dtype: Dtype = "float32"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionData(SourceConfig):
    """Where images with boxes come from: "coco" (its JSON and JPEG files), "tfds" (coco/2017 as array_record) or
    "shapes" (drawn ones, made at first use in `directory`).

    Attributes:
      short_side, long_side: images are scaled until one of them is reached, pixels.
      shapes_images: how many drawn images to train on, and to hold out; 0 for the usual numbers.
    """

    short_side: int = 800
    long_side: int = 1333
    shapes_images: int = 0

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of what landscape images are put on."""
        return self.preparation.canvas

    @property
    def preparation(self) -> CanvasPreparation:
        """How images are prepared for evaluation, and for the trained detector."""
        return CanvasPreparation(self.short_side, self.long_side, self.mean, self.std)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionConfig(RunConfig):
    """A whole experiment: the fields of every run, and these."""

    model: DetectorConfig
    data: DetectionData
    task: Literal["detection"] = "detection"

    def check(self) -> None:
        """UserError when there is no such backbone, or numbers do not fit together."""
        settings_of(self.model)
        architecture_of(self.model.backbone, None, self.model.overrides).check_image(*self.data.canvas)


def settings_of(model: DetectorConfig) -> DetectorSettings:
    """The detector's settings; UserError for one that is unknown (the nearest is named) or out of range."""
    known = [field.name for field in dataclasses.fields(DetectorSettings) if field.name not in ("kind", "num_classes")]
    for name in model.settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean config.model.settings.{near[0]}?" if near else f"there are {', '.join(known)}"
            raise UserError(f"config.model.settings has no field {name!r}: {hint}")
    return DetectorSettings(kind=model.detector, num_classes=model.num_classes, **model.settings)
