"""What a checkpoint is evaluated and trained further with: its own settings, except for flags of the command line.

A config file describes how to train, and may be another one than the checkpoint was trained with.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cdnv2_jax.classification.config import ClassificationConfig, data_fields, data_fields_in_effect
from cdnv2_jax.commands.read_config import COMMAND_LINE, CONFIG_FILE
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.image_channels import refuse_other_than_rgb
from cdnv2_jax.networks.network import RGB
from cdnv2_jax.schema import naming
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.weights.checkpoint import USAGE_KEY
from cdnv2_jax.weights.metadata import usual_preparation
from cdnv2_jax.weights.open import OpenedDetector, OpenedNetwork, stored_metadata

INFERENCE = (
    *("proposals_per_level", "proposals", "proposal_nms_threshold", "sampling_ratio", "exact_roi_align"),
    *("candidates_per_level", "nms_candidates", "score_threshold", "nms_threshold", "most_detections"),
)
"""Settings of a detector that evaluation may change; the others are part of what was trained."""

AnyConfig = TypeVar("AnyConfig", bound=RunConfig)

PREPROCESSING = ("short_side", "long_side", "mean", "std")


def evaluated_classifier(
    config: ClassificationConfig, origins: Mapping[str, str], opened: OpenedNetwork
) -> tuple[ClassificationConfig, list[str]]:
    """Return the config with the preprocessing to evaluate with, and a line on each setting in dispute.

    A checkpoint that stores no preprocessing has the config's; a line tells where that is not the official code's.

    Args:
      config: as read.
      origins: where its values come from, see `read_with_origins`.
      opened: the checkpoint.

    Raises:
      UserError: the checkpoint holds another network, or one for other images than RGB.
    """
    name, classes = opened.network.name, opened.network.architecture.num_classes
    if name != config.model.name:
        raise UserError(f"{opened.path} holds a {name}, the config is for a {config.model.name}")
    refuse_other_than_rgb(opened.network, str(opened.path))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=classes))
    if opened.network.usage is not None:
        return _prepared_as(config, origins, opened.network.usage.preparation)
    ours, usual = data_fields_in_effect(config), data_fields(usual_preparation(opened.network))
    return config, [
        f"data.{key} {ours[key]} (config) instead of {usual[key]} (official code)"
        for key in ours
        if ours[key] != usual[key]
    ]


def config_to_train(config: RunConfig, origins: Mapping[str, str]) -> tuple[RunConfig, list[str]]:
    """Return the config with the preprocessing of the checkpoint that training starts from, if any, and lines on it.

    A classifier takes over all of it, a detector the mean and standard deviation.

    Raises:
      UserError: the checkpoint is damaged.
    """
    path = Path(config.model.checkpoint)
    usage = stored_metadata(path).get(USAGE_KEY) if config.model.checkpoint and path.exists() else None
    if not isinstance(usage, Mapping) or "preparation" not in usage:
        return config, []  # a detector, or a checkpoint without preprocessing
    try:
        stored = ImagePreparation(**usage["preparation"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: its preprocessing metadata is damaged ({error})") from error
    if len(stored.mean) != RGB:
        return config, []  # refused with the network itself
    if isinstance(config, ClassificationConfig):
        return _prepared_as(config, origins, stored)
    own = {"mean": stored.mean, "std": stored.std}
    return _with_stored(config, origins, own, {key: getattr(config.data, key) for key in own})


def _prepared_as(
    config: ClassificationConfig, origins: Mapping[str, str], stored: ImagePreparation
) -> tuple[ClassificationConfig, list[str]]:
    config, lines = _with_stored(config, origins, data_fields(stored), data_fields_in_effect(config))
    return config, [f"data.{line}" for line in lines]


def evaluated_detector(
    config: DetectionConfig, origins: Mapping[str, str], opened: OpenedDetector
) -> tuple[DetectionConfig, list[str]]:
    """Return the config with the settings and the preprocessing to evaluate with, and a line on each one in dispute.

    Args:
      config: as read.
      origins: where its values come from, see `read_with_origins`.
      opened: the checkpoint.

    Raises:
      UserError: the checkpoint holds another detector, or a flag asks for another one.
    """
    settings, path = opened.detector.settings, opened.path
    name = f"{settings.kind} on {opened.detector.backbone.name}"
    wanted = f"{config.model.detector} on {config.model.backbone}"
    if name != wanted:
        raise UserError(f"{path} holds a {name}, the config is for a {wanted}")
    _refuse_other_architecture(config, origins, opened)
    own = dataclasses.asdict(settings)
    given = {key: getattr(config.model.detector_settings, key) for key in config.model.settings}
    kept, lines = _settled(own, given, lambda key: _origin(origins, "model.settings", key))
    merged = {key: own[key] for key in own if key not in ("kind", "num_classes")} | kept
    stored = str(np.dtype(opened.detector.backbone.param_dtype))
    dtype = config.model.dtype if origins.get("model.dtype") == COMMAND_LINE else stored
    if dtype != stored:
        lines.append(f"dtype {dtype} ({COMMAND_LINE}) instead of {stored} (checkpoint)")
    with naming("config.model"):
        model = dataclasses.replace(config.model, num_classes=settings.num_classes, dtype=dtype, settings=merged)
    config = dataclasses.replace(config, model=model)
    if USAGE_KEY not in opened.metadata:
        return config, [*lines, f"{path} stores no preprocessing: the config's is used"]
    own, given = ({key: getattr(part, key) for key in PREPROCESSING} for part in (opened.preparation, config.data))
    config, more = _with_stored(config, origins, own, given)
    return config, [*lines, *more]


def _origin(origins: Mapping[str, str], part: str, key: str) -> str:
    """Return where a field's value comes from; a flag may also give the whole mapping that it is in."""
    return COMMAND_LINE if origins.get(part) == COMMAND_LINE else origins.get(f"{part}.{key}", "")


def _settled(
    own: Mapping[str, Any], given: Mapping[str, Any], origin_of: Callable[[str], str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values to use instead of a checkpoint's own ones, and a line on each difference."""
    used, lines = {}, []
    for key, value in given.items():
        origin = origin_of(key)
        if value == own[key] or not origin:
            continue
        if origin == COMMAND_LINE:
            used[key] = value
            lines.append(f"{key} {value} ({COMMAND_LINE}) instead of {own[key]} (checkpoint)")
        else:
            lines.append(f"{key} {own[key]} (checkpoint) instead of {value} ({CONFIG_FILE})")
    return used, lines


def _with_stored(
    config: AnyConfig, origins: Mapping[str, str], own: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[AnyConfig, list[str]]:
    """Return the config with a checkpoint's fields of `config.data`, except for flags, and a line on each difference.

    Args:
      config: the settings.
      origins: where its values come from.
      own: the fields that the checkpoint stores.
      given: the values in effect without it.
    """
    used, lines = _settled(own, given, lambda key: _origin(origins, "data", key) or CONFIG_FILE)
    # What is the same already stays as it is written: a random interpolation remains random in training.
    changed = {key: value for key, value in {**own, **used}.items() if value != given[key]}
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changed)), lines


def _refuse_other_architecture(config: DetectionConfig, origins: Mapping[str, str], opened: OpenedDetector) -> None:
    """Raise UserError for a flag that asks for another detector than the checkpoint holds."""
    settings, architecture = opened.detector.settings, opened.detector.backbone.architecture
    given: dict[str, tuple[Any, Any]] = {"model.num_classes": (config.model.num_classes, settings.num_classes)}
    for key in config.model.settings:
        if key not in INFERENCE:
            given[f"model.settings.{key}"] = getattr(config.model.detector_settings, key), getattr(settings, key)
    for key in config.model.overrides:
        for field in architecture.SHORTHANDS.get(key, (key,)):
            wanted, own = (getattr(each, field, None) for each in (config.model.architecture, architecture))
            if wanted != own:
                given[f"model.overrides.{key}"] = wanted, own
    for name, (wanted, own) in given.items():
        part, _, key = name.rpartition(".")
        if wanted != own and _origin(origins, part, key) == COMMAND_LINE:
            raise UserError(
                f"--config.{name}={wanted} asks for another detector than {opened.path} holds, trained with {own}: "
                "remove the flag, or train with it"
            )
