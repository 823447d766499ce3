"""What an experiment in classification is made of."""

import dataclasses
from typing import Any, Literal

from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.training.config import Dtype, RunConfig, SourceConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Attributes:
    name: in the registry. num_classes: logits. dtype: of the computation; parameters stay float32.
    overrides: of the architecture.
    checkpoint: a network to start from, ours or official, masked or condensed; "" to start from drawn weights. Its
      classifier is drawn anew where `num_classes` differs from its own.
    """

    name: str
    num_classes: int
    dtype: Dtype = "float32"
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(SourceConfig):
    """Where images come from ("digits", "synthetic", "image_folder", "imagenet_tars", "cifar10", "cifar100" or
    "tfds") and what is done to them.

    Attributes:
      image_size: side in pixels.
      crop: "random_resized" (evaluation: the centre of the resized image), "shift" by up to `shift` pixels each way
        with black coming in, or "none" (evaluation with either: the image as it is).
      interpolation: of random resized crops; "random": bilinear or bicubic, evenly.
      rand_augment: in timm's notation, such as "rand-m9-mstd0.5"; "" for none.
      erase_probability: of random erasing. erase_on: where its noise is drawn; "auto": on the host for a CPU,
        else on the device.
      mixup: the α of Beta(α, α); 0 for none.
      synthetic_images: how many images the "synthetic" source has; 0 for its usual number.
    """

    image_size: int
    crop: Literal["none", "shift", "random_resized"] = "none"
    shift: int = 0
    interpolation: Literal["random", "bilinear", "bicubic"] = "random"
    rand_augment: str = ""
    erase_probability: float = 0.0
    erase_on: Literal["auto", "host", "device"] = "auto"
    mixup: float = 0.0
    synthetic_images: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationConfig(RunConfig):
    """A whole experiment: the fields of every run, and these.

    Attributes:
      batch_norm: statistics of the "global" batch, or of each device's part of it ("replica", as the official code).
      label_smoothing: probability given to all classes evenly.
      group_lasso: weight of the group lasso (0 for none).
    """

    model: ModelConfig
    data: DataConfig
    task: Literal["classification"] = "classification"
    batch_norm: Literal["global", "replica"] = "global"
    label_smoothing: float = 0.0
    group_lasso: float = 0.0

    def check(self) -> None:
        """UserError when there is no such model, or its overrides do not fit together."""
        architecture_of(self.model.name, self.model.num_classes, self.model.overrides)
