"""Settings of classification experiments."""

import functools
from typing import Any, Literal

from cdnv2_jax.data.preparation import LARGEST_SIDE, ImagePreparation
from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.lowering import Precision
from cdnv2_jax.networks.family import model_entry
from cdnv2_jax.networks.network import Architecture
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.schema import check, setting, settings
from cdnv2_jax.training.config import PRECISION_HELP, Dtype, RunConfig, SourceConfig, override_fields


@settings
class ModelConfig:
    """The classifier."""

    name: str = setting("name of a registered model")
    num_classes: int = setting("number of classes", least=1)
    dtype: Dtype = setting("dtype of the computation; parameters stay float32", default="float32")
    precision: Precision = setting(PRECISION_HELP, default="default")
    overrides: dict[str, Any] = setting(
        "fields of the model's architecture to change",
        factory=dict,
        entries=lambda model: override_fields(model["name"]),
        makes="architecture",
    )
    checkpoint: str = setting(
        'checkpoint of any kind to start from; its classifier is kept if it knows the classes; "" for none',
        default="",
    )

    def __post_init__(self):
        check(self)

    @functools.cached_property
    def architecture(self) -> Architecture:
        """The registered architecture with the overrides."""
        return architecture_of(self.name, self.num_classes, self.overrides)


@settings
class DataConfig(SourceConfig):
    """Source, preprocessing and augmentation of the images."""

    image_size: int = setting("side of the square images, in pixels", least=1, most=LARGEST_SIDE)
    exif_orientation: bool = setting(
        "turn photographs as their EXIF orientation says, as every viewer does; the official code does not",
        default=True,
    )
    crop: Literal["none", "shift", "random_resized"] = setting(
        "for training; eval_crop is the one of evaluation", default="none"
    )
    shift: int = setting("largest shift in each direction, in pixels, filled with black", default=0, least=0)
    interpolation: Literal["random", "bilinear", "bicubic"] = setting(
        "of every resize; random: in training either, equally likely, and in evaluation the network's usual one",
        default="random",
    )
    eval_crop: Literal["auto", "centre", "whole"] = setting(
        "in evaluation the centre, or the whole image squeezed; auto: centre if crop is random_resized, else whole",
        default="auto",
    )
    resize: int = setting(
        "shorter side before the centre crop of evaluation, in pixels; 0 for image_size × 256 / 224",
        default=0,
        least=0,
        most=LARGEST_SIDE,
    )
    rand_augment: str = setting('policy in timm\'s notation, such as "rand-m9-mstd0.5"; "" for none', default="")
    erase_probability: float = setting("probability of random erasing", default=0.0, least=0, most=1)
    erase_on: Literal["auto", "host", "device"] = setting(
        "where random erasing generates noise; auto: on the host for a CPU, else on the device", default="auto"
    )
    mixup: float = setting("α of mixup's Beta(α, α); 0 for no mixup", default=0.0, least=0)
    held_out_fraction: float = setting(
        "share of every class that is held out of a directory without a split of its own; 0 to evaluate all of it",
        default=0.0,
        least=0,
        most=0.9,
    )
    synthetic_images: int = setting('images in the "synthetic" source; 0 for its default', default=0, least=0)


@settings
class ClassificationConfig(RunConfig):
    """Settings of a classification experiment."""

    model: ModelConfig = setting("the classifier")
    data: DataConfig = setting("images, augmentation and preprocessing")
    task: Literal["classification"] = setting("what is trained", default="classification")
    batch_norm: Literal["global", "replica"] = setting(
        "statistics of the global batch, or of each device's part of it as in the official code", default="global"
    )
    label_smoothing: float = setting("probability mass spread evenly over all classes", default=0.0, least=0, most=1)
    group_lasso: float = setting("weight of the group lasso; 0 for none", default=0.0, least=0)


PREPARATION = {
    "size": "image_size",
    "resize": "eval_crop",
    "shorter_side": "resize",
    "interpolation": "interpolation",
    "mean": "mean",
    "std": "std",
}
"""Field of `ImagePreparation` → field of `config.data`."""


def preparation_of(config: ClassificationConfig) -> ImagePreparation:
    """Return the preprocessing for evaluation and for the trained network; UserError if the settings are unusable."""
    values = data_fields_in_effect(config)
    try:
        return ImagePreparation(**{name: values[field] for name, field in PREPARATION.items()})
    except ValueError as error:
        raise UserError(f"config.data cannot be used: {error}") from error


def data_fields_in_effect(config: ClassificationConfig) -> dict[str, Any]:
    """Return the fields of `config.data` that determine the preprocessing, with "auto" and "random" resolved."""
    values = {field: getattr(config.data, field) for field in PREPARATION.values()}
    if values["eval_crop"] == "auto":
        values["eval_crop"] = "centre" if config.data.crop == "random_resized" else "whole"
    if values["interpolation"] == "random":
        values["interpolation"] = model_entry(config.model.name).interpolation
    return values


def data_fields(preparation: ImagePreparation) -> dict[str, Any]:
    """Return the fields of `config.data` that give this preprocessing."""
    return {field: getattr(preparation, name) for name, field in PREPARATION.items()}
