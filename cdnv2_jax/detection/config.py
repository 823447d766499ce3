"""Settings of detection experiments."""

import functools
from typing import Any, Literal

from cdnv2_jax.data.canvas import LARGEST_SIDE, CanvasPreparation
from cdnv2_jax.detectors.settings import DetectorSettings, Kind
from cdnv2_jax.layers.lowering import Precision
from cdnv2_jax.networks.network import Architecture
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.schema import Field, check, fields_of, naming, setting, settings
from cdnv2_jax.training.config import PRECISION_HELP, Dtype, RunConfig, SourceConfig, override_fields


def _further(_: Any) -> dict[str, Field]:
    """Return the settings of a detector that are not fields of `DetectorConfig`."""
    known = fields_of(DetectorSettings)
    return {name: known[name] for name in known if name not in ("kind", "num_classes")}


@settings
class DetectorConfig:
    """The detector and its backbone."""

    detector: Kind = setting("kind of detector")
    backbone: str = setting("name of a registered model")
    num_classes: int = setting("classes of objects, without the background", least=1)
    dtype: Dtype = setting("dtype of the computation; parameters and boxes stay float32", default="float32")
    precision: Precision = setting(PRECISION_HELP, default="default")
    settings: dict[str, Any] = setting(
        "further settings of the detector", factory=dict, entries=_further, makes="detector_settings"
    )
    overrides: dict[str, Any] = setting(
        "fields of the backbone's architecture to change",
        factory=dict,
        entries=lambda model: override_fields(model["backbone"]),
        makes="architecture",
    )
    checkpoint: str = setting(
        'classifier that provides the initial backbone, or detector to start from; "" for neither', default=""
    )

    def __post_init__(self):
        check(self)

    @functools.cached_property
    def detector_settings(self) -> DetectorSettings:
        """All settings of the detector."""
        return DetectorSettings(kind=self.detector, num_classes=self.num_classes, **self.settings)

    @functools.cached_property
    def architecture(self) -> Architecture:
        """The backbone's registered architecture with the overrides."""
        return architecture_of(self.backbone, None, self.overrides)


@settings
class DetectionData(SourceConfig):
    """Source of the images with boxes: "coco" (JSON and JPEG files), "tfds" (coco/2017 as array_record) or "shapes"
    (generated into `directory` at first use)."""

    short_side: int = setting("target of the images' shorter side, in pixels", default=800, least=1, most=LARGEST_SIDE)
    long_side: int = setting(
        "limit of their longer side, in pixels, which takes precedence", default=1333, least=1, most=LARGEST_SIDE
    )
    train_annotations: str = setting(
        'JSON file of the training images, for "coco"; from `directory`, "" to look for it', default=""
    )
    val_annotations: str = setting("likewise, of the held-out images", default="")
    exif_orientation: bool = setting(
        "whether images were annotated as their EXIF orientation turns them, as most tools show them, not as stored",
        default=True,
    )
    empty_images: Literal["drop", "keep"] = setting(
        "images without any annotation: drop them, or keep them as background to train on", default="drop"
    )
    shapes_images: int = setting('images in each split of the "shapes" source; 0 for its defaults', default=0, least=0)

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the canvas of landscape images."""
        return self.preparation.canvas

    @property
    def preparation(self) -> CanvasPreparation:
        """Preprocessing of images for evaluation and for the trained detector."""
        return CanvasPreparation(self.short_side, self.long_side, self.mean, self.std)


@settings
class DetectionConfig(RunConfig):
    """Settings of a detection experiment."""

    model: DetectorConfig = setting("the detector and its backbone")
    data: DetectionData = setting("images with boxes and their preprocessing")
    task: Literal["detection"] = setting("what is trained", default="detection")

    def __post_init__(self):
        super().__post_init__()
        with naming("data"):
            self.model.architecture.check_image(*self.data.canvas)
