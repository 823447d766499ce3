"""What an experiment is made of, typed and checked: the schema of the files in `configs/`."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from cdnv2_jax.errors import UserError

Dtype = Literal["float32", "bfloat16", "float64"]


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


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images come from and what is done to them; docs/data.md describes every source.

    Attributes:
      source: "digits", "synthetic", "image_folder", "imagenet_tars", "cifar10", "cifar100" or "tfds".
      directory: where the source's files lie ("" for those that need none).
      image_size: side in pixels.
      batch_size: images per update, over all devices. eval_batch_size: the same for evaluation, no effect on results.
      crop: "random_resized" (evaluation: the centre of the resized image), "shift" by up to `shift` pixels each way
        with black coming in, or "none" (evaluation with either: the image as it is).
      interpolation: of random resized crops; "random": bilinear or bicubic, evenly.
      flip: mirror half of the training images.
      rand_augment: in timm's notation, such as "rand-m9-mstd0.5"; "" for none.
      erase_probability: of random erasing. erase_on: where its noise is drawn; "auto": on the host for a CPU,
        else on the device.
      mixup: the α of Beta(α, α); 0 for none.
      mean, std: of each channel, for pixels in [0, 1].
      workers: processes per host that read and augment; 0 to do it in threads of the training process.
      max_broken_images: how many unreadable images may be replaced by others before the run stops.
      synthetic_images: how many images the "synthetic" source has; 0 for its usual number.
    """

    source: str
    image_size: int
    batch_size: int
    eval_batch_size: int
    directory: str = ""
    crop: Literal["none", "shift", "random_resized"] = "none"
    shift: int = 0
    interpolation: Literal["random", "bilinear", "bicubic"] = "random"
    flip: bool = False
    rand_augment: str = ""
    erase_probability: float = 0.0
    erase_on: Literal["auto", "host", "device"] = "auto"
    mixup: float = 0.0
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    workers: int = 0
    max_broken_images: int = 0
    synthetic_images: int = 0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """SGD with momentum; the rate warms up linearly, then falls by half a cosine to zero.

    Attributes:
      learning_rate: after the warm-up. warmup_from: at step 0. warmup_epochs: 0 for none.
      reference_batch: the batch that the two rates are meant for: with another batch both are scaled in proportion;
        0 to take them as they are.
      weight_decay: added to the gradient (as PyTorch does); decay_vectors: of biases and BatchNorm too.
    """

    learning_rate: float
    warmup_from: float = 0.0
    warmup_epochs: float = 0
    reference_batch: int = 0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    decay_vectors: bool = False

    def scaled_to(self, batch_size: int) -> "OptimizerConfig":
        """The same with its rates scaled to a batch."""
        factor = batch_size / self.reference_batch if self.reference_batch else 1.0
        return dataclasses.replace(
            self, learning_rate=self.learning_rate * factor, warmup_from=self.warmup_from * factor
        )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A whole experiment.

    Attributes:
      epochs: length of the run; the first half of it prunes.
      batch_norm: statistics of the "global" batch, or of each device's part of it ("replica", as the official code).
      accumulate: parts that a batch is worked through in, one after the other, before the update.
      remat: compute what is inside of dense layers again in the backward pass instead of keeping it: less memory, a
        second forward pass, the same result. CPUs ignore it (XLA merges the two computations).
      label_smoothing: probability given to all classes evenly.
      ema_decay: of the moving average of weights and BN statistics that evaluation uses; 0 for none.
      group_lasso: weight of the group lasso (0 for none).
      eval_every_epochs, checkpoint_every_epochs, keep_checkpoints, log_every_steps: bookkeeping.
      seed: of weights, data order and augmentation.
    """

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    epochs: int
    seed: int = 0
    batch_norm: Literal["global", "replica"] = "global"
    accumulate: int = 1
    remat: bool = False
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    group_lasso: float = 0.0
    eval_every_epochs: int = 1
    checkpoint_every_epochs: int = 1
    keep_checkpoints: int = 2
    log_every_steps: int = 10


RANGES = {
    "epochs": (1, None),
    "num_classes": (1, None),
    "image_size": (1, None),
    "batch_size": (1, None),
    "eval_batch_size": (1, None),
    "shift": (0, None),
    "erase_probability": (0, 1),
    "mixup": (0, None),
    "std": (1e-6, None),
    "workers": (0, None),
    "max_broken_images": (0, None),
    "synthetic_images": (0, None),
    "reference_batch": (0, None),
    "accumulate": (1, None),
    "learning_rate": (0, None),
    "warmup_from": (0, None),
    "warmup_epochs": (0, None),
    "weight_decay": (0, None),
    "group_lasso": (0, None),
    "momentum": (0, 1),
    "label_smoothing": (0, 1),
    "ema_decay": (0, 1),
    "seed": (0, 2**32 - 1),
    "eval_every_epochs": (1, None),
    "checkpoint_every_epochs": (1, None),
    "keep_checkpoints": (1, None),
    "log_every_steps": (1, None),
}


def parse_config(values: Mapping[str, Any]) -> TrainConfig:
    """The typed config; UserError for a field that is unknown (the nearest one is named), missing or out of range."""
    return _parse(TrainConfig, values, "config")


def with_defaults(values: Any, cls: type = TrainConfig) -> Any:
    """Nested values with the defaults of fields that are left out, so that the command line can change those too."""
    if not isinstance(values, Mapping):
        return values
    filled = dict(values)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            if field.name in filled:
                filled[field.name] = with_defaults(filled[field.name], typing.cast(type, hints[field.name]))
        elif field.name not in filled and field.default is not dataclasses.MISSING:
            filled[field.name] = field.default
        elif field.name not in filled and field.default_factory is not dataclasses.MISSING:
            filled[field.name] = field.default_factory()
    return filled


def _parse(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must hold fields, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            hint = f"did you mean {where}.{near[0]}?" if near else f"there are {', '.join(fields)}"
            raise UserError(f"{where} has no field {name!r}: {hint}")
    required = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{where} lacks {', '.join(f'{where}.{name}' for name in missing)}")
    return cls(**{name: _check(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _check(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _parse(typing.cast(type, hint), value, where)
    base = typing.get_origin(hint) or hint
    if base is Literal:
        return _choice(typing.get_args(hint), value, where)
    if base is tuple:
        return _numbers(typing.get_args(hint), value, where)
    if base is dict and isinstance(value, Mapping):
        return {key: tuple(entry) if isinstance(entry, list) else entry for key, entry in value.items()}
    if base is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, base) or (base is int and isinstance(value, bool)):
        name = base.__name__ if not isinstance(base, types.UnionType) else str(base)
        raise UserError(f"{where} must be of type {name}, got {value!r}")
    if base is float and not math.isfinite(value):
        raise UserError(f"{where} must be a finite number, got {value}")
    low, high = RANGES.get(where.rsplit(".", 1)[-1], (None, None))
    if (low is not None and value < low) or (high is not None and value > high):
        raise UserError(
            f"{where} must be {low} or more{f' and at most {high}' if high is not None else ''}, got {value}"
        )
    return value


def _choice(choices: tuple[str, ...], value: Any, where: str) -> str:
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{where} must be one of {', '.join(choices)}, got {value!r}{hint}")
    return value


def _numbers(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or len(value) != len(hints):
        raise UserError(f"{where} must be {len(hints)} numbers, got {value!r}")
    return tuple(_check(hint, entry, where) for hint, entry in zip(hints, value, strict=True))
