"""What an experiment is made of, typed and checked: the schema of the files in `configs/`."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from cdnv2_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Attributes: name in the registry; num_classes; dtype of the computation; overrides of the architecture."""

    name: str
    num_classes: int
    dtype: str = "float32"
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Attributes:
    source: "digits" or "image_folder". directory: where an image folder lies ("" for digits).
    image_size: side in pixels. batch_size: of training; eval_batch_size: of evaluation.
    max_shift: augmentation, random shift by up to so many pixels each way (digits).
    """

    source: str
    image_size: int
    batch_size: int
    eval_batch_size: int
    directory: str = ""
    max_shift: int = 0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """SGD with momentum; the rate warms up linearly, then falls by half a cosine to zero.

    Attributes:
      learning_rate: after the warm-up. warmup_from: at step 0. warmup_epochs: 0 for none.
      weight_decay: added to the gradient (as PyTorch does); decay_vectors: of biases and BatchNorm too.
    """

    learning_rate: float
    warmup_from: float = 0.0
    warmup_epochs: float = 0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    decay_vectors: bool = False


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A whole experiment.

    Attributes:
      epochs: length of the run; the first half of it prunes.
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
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    group_lasso: float = 0.0
    eval_every_epochs: int = 1
    checkpoint_every_epochs: int = 1
    keep_checkpoints: int = 2
    log_every_steps: int = 10


DTYPES = ("float32", "bfloat16", "float64")

RANGES = {
    "epochs": (1, None),
    "num_classes": (1, None),
    "image_size": (1, None),
    "batch_size": (1, None),
    "eval_batch_size": (1, None),
    "max_shift": (0, None),
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
    if base is dict and isinstance(value, Mapping):
        return {key: tuple(entry) if isinstance(entry, list) else entry for key, entry in value.items()}
    if base is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, base) or (base is int and isinstance(value, bool)):
        name = base.__name__ if not isinstance(base, types.UnionType) else str(base)
        raise UserError(f"{where} must be of type {name}, got {value!r}")
    if base is float and not math.isfinite(value):
        raise UserError(f"{where} must be a finite number, got {value}")
    if where.endswith(".dtype") and value not in DTYPES:
        raise UserError(f"{where} must be one of {', '.join(DTYPES)}, got {value!r}")
    low, high = RANGES.get(where.rsplit(".", 1)[-1], (None, None))
    if (low is not None and value < low) or (high is not None and value > high):
        raise UserError(
            f"{where} must be {low} or more{f' and at most {high}' if high is not None else ''}, got {value}"
        )
    return value
