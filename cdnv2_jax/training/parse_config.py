"""Nested values, as a config file gives them → a config, typed and checked."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from cdnv2_jax.errors import UserError

Config = TypeVar("Config")

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
    "shapes_images": (0, None),
    "short_side": (1, None),
    "long_side": (1, None),
    "reference_batch": (0, None),
    "accumulate": (1, None),
    "learning_rate": (0, None),
    "warmup_from": (0, None),
    "warmup_epochs": (0, None),
    "warmup_steps": (0, None),
    "decay_epochs": (0, None),
    "decay_factor": (0, 1),
    "clip_norm": (0, None),
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


def parse_config(values: Mapping[str, Any], cls: type[Config]) -> Config:
    """The config as a dataclass; UserError for a field that is unknown (the nearest one is named), missing or out of
    range."""
    return _parse(cls, values, "config")


def with_defaults(values: Any, cls: type) -> Any:
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


def flat_fields(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"data": {"source": …}} → {"data.source": …}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flat_fields(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


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
    any_number = hints[-1] is Ellipsis
    if not isinstance(value, list | tuple) or not (any_number or len(value) == len(hints)):
        raise UserError(f"{where} must be {'' if any_number else f'{len(hints)} '}numbers, got {value!r}")
    if any_number:
        hints = hints[:1] * len(value)
    return tuple(_check(hint, entry, where) for hint, entry in zip(hints, value, strict=True))
