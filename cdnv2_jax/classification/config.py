"""The settings of an experiment in classification."""

import functools
from typing import Any, Literal

from cdnv2_jax.networks.network import Architecture
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.schema import check, setting, settings
from cdnv2_jax.training.config import Dtype, RunConfig, SourceConfig, override_fields


@settings
class ModelConfig:
    """The classifier."""

    name: str = setting("a registered model")
    num_classes: int = setting("logits", least=1)
    dtype: Dtype = setting("of the computation; parameters stay float32", default="float32")
    overrides: dict[str, Any] = setting(
        "fields of the model's architecture to change",
        factory=dict,
        entries=lambda model: override_fields(model["name"]),
        makes="architecture",
    )
    checkpoint: str = setting(
        'network to start from, of any kind; its classifier is re-initialised if num_classes differs; "" for none',
        default="",
    )

    def __post_init__(self):
        check(self)

    @functools.cached_property
    def architecture(self) -> Architecture:
        """The registered one with the overrides."""
        return architecture_of(self.name, self.num_classes, self.overrides)


@settings
class DataConfig(SourceConfig):
    """Source of the images and how they are augmented."""

    image_size: int = setting("side in pixels", least=1)
    crop: Literal["none", "shift", "random_resized"] = setting(
        "of training images; evaluation takes the centre with random_resized, else the whole image", default="none"
    )
    shift: int = setting("largest shift each way, in pixels, filled with black", default=0, least=0)
    interpolation: Literal["random", "bilinear", "bicubic"] = setting(
        "of random_resized; random: bilinear or bicubic, evenly", default="random"
    )
    rand_augment: str = setting('in timm\'s notation, such as "rand-m9-mstd0.5"; "" for none', default="")
    erase_probability: float = setting("of random erasing", default=0.0, least=0, most=1)
    erase_on: Literal["auto", "host", "device"] = setting(
        "where the noise of random erasing is drawn; auto: on the host for a CPU, else on the device", default="auto"
    )
    mixup: float = setting("α of Beta(α, α); 0 for none", default=0.0, least=0)
    synthetic_images: int = setting('size of the "synthetic" source; 0 for its usual size', default=0, least=0)


@settings
class ClassificationConfig(RunConfig):
    """The settings of an experiment in classification."""

    model: ModelConfig = setting("the classifier")
    data: DataConfig = setting("images, augmentation and preprocessing")
    task: Literal["classification"] = setting("what is trained", default="classification")
    batch_norm: Literal["global", "replica"] = setting(
        "batch statistics of the global batch, or of each device's part as in the official code", default="global"
    )
    label_smoothing: float = setting("probability spread evenly over all classes", default=0.0, least=0, most=1)
    group_lasso: float = setting("weight of the group lasso; 0 for none", default=0.0, least=0)
