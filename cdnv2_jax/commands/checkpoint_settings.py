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
from cdnv2_jax.detection.starting_point import TRAINED_WITH
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.image_channels import refuse_other_than_rgb
from cdnv2_jax.networks.network import RGB
from cdnv2_jax.paths import as_path
from cdnv2_jax.schema import naming
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.training.workdir import TO_USE, network_of_run
from cdnv2_jax.weights.checkpoint import USAGE_KEY
from cdnv2_jax.weights.metadata import usual_preparation
from cdnv2_jax.weights.open import (
    Classifier,
    DetectorProgram,
    OpenedDetector,
    canvas_preparation,
    stored_detector,
    stored_metadata,
)

INFERENCE = (
    *("proposals_per_level", "proposals", "proposal_nms_threshold", "sampling_ratio", "exact_roi_align"),
    *("candidates_per_level", "nms_candidates", "score_threshold", "nms_threshold", "most_detections"),
)
"""Settings of a detector that evaluation may change; the others are part of what was trained."""

AnyConfig = TypeVar("AnyConfig", bound=RunConfig)

PREPROCESSING = ("short_side", "long_side", "mean", "std")


def evaluated_classifier(
    config: ClassificationConfig, origins: Mapping[str, str], opened: Classifier, path: Path
) -> tuple[ClassificationConfig, list[str]]:
    """Return the config with the preprocessing to evaluate with, and a line on each setting in dispute.

    A checkpoint that stores no preprocessing has the config's; a line tells where that is not the official code's.

    Args:
      config: as read.
      origins: where its values come from, see `read_with_origins`.
      opened: the checkpoint or exported program.
      path: where it comes from.

    Raises:
      UserError: the checkpoint holds another network, or one for other images than RGB.
    """
    about, network = opened.described, opened.network
    if about.name != config.model.name:
        raise UserError(f"{path} holds a {about.name}, the config is for a {config.model.name}")
    if network is not None:
        refuse_other_than_rgb(network, str(path))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=about.num_classes))
    if network is None or network.usage is not None:
        return _prepared_as(config, origins, about.usage.preparation)
    ours, usual = data_fields_in_effect(config), data_fields(usual_preparation(network))
    return config, [
        f"data.{key} {ours[key]} (config) instead of {usual[key]} (official code)"
        for key in ours
        if ours[key] != usual[key]
    ]


def config_to_train(config: RunConfig, origins: Mapping[str, str]) -> tuple[RunConfig, list[str]]:
    """Return the config with what belongs to the weights that training starts from, if any, and lines on it.

    Of a run's directory, one of its networks is taken. A classifier takes over a classifier's preprocessing. A detector
    takes over a detector's preprocessing and, from one of its own kind, the settings in `TRAINED_WITH`; from a
    classifier, the mean and standard deviation.

    Raises:
      UserError: the checkpoint is damaged, or a run's directory without a network.
    """
    given = config.model.checkpoint
    if not given:
        return config, []
    path = network_of_run(as_path(given), TO_USE)
    if path == as_path(given):
        return _as_checkpoint(config, origins, path)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, checkpoint=str(path)))
    config, lines = _as_checkpoint(config, origins, path)
    return config, [f"config.model.checkpoint {given}: {path.name}/ is taken", *lines]


def _as_checkpoint(config: RunConfig, origins: Mapping[str, str], path: Path) -> tuple[RunConfig, list[str]]:
    usage = stored_metadata(path).get(USAGE_KEY) if path.exists() else None
    if isinstance(config, DetectionConfig) and (settings := stored_detector(path)):
        return _from_detector(config, origins, settings, usage, path)
    if not isinstance(usage, Mapping) or "preparation" not in usage:
        return config, []  # no preprocessing, or a detector, which no classifier starts from
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


def _from_detector(
    config: DetectionConfig, origins: Mapping[str, str], settings: DetectorSettings, usage: Any, path: Path
) -> tuple[DetectionConfig, list[str]]:
    lines = []
    if settings.kind == config.model.detector:
        own, given = (
            {key: getattr(each, key) for key in TRAINED_WITH[settings.kind]}
            for each in (settings, config.model.detector_settings)
        )
        used, lines = _settled(own, given, lambda key: _origin(origins, "model.settings", key) or CONFIG_FILE)
        changed = {key: value for key, value in {**own, **used}.items() if value != given[key]}
        with naming("config.model"):
            model = dataclasses.replace(config.model, settings={**config.model.settings, **changed})
        config = dataclasses.replace(config, model=model)
    if usage is None:
        return config, [*lines, f"{path} stores no preprocessing: the config's is used"]
    config, more = _with_stored(config, origins, *_preprocessing(canvas_preparation(usage, path), config.data))
    return config, [*lines, *more]


def _preprocessing(*parts: Any) -> list[dict[str, Any]]:
    """Return the preprocessing of each of some preparations or data settings of a detector."""
    return [{key: getattr(part, key) for key in PREPROCESSING} for part in parts]


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
    config, more = _with_stored(config, origins, *_preprocessing(opened.preparation, config.data))
    return config, [*lines, *more]


def evaluated_detector_program(
    config: DetectionConfig, origins: Mapping[str, str], opened: DetectorProgram, path: Path
) -> tuple[DetectionConfig, list[str]]:
    """Return the config with the preprocessing to evaluate an exported detector with, and a line on each difference.

    Args:
      config: as read.
      origins: where its values come from, see `read_with_origins`.
      opened: the program.
      path: where it comes from.

    Raises:
      UserError: the program holds another detector, or a flag asks for other settings than it was exported with.
    """
    about = opened.described
    name, wanted = f"{about.kind} on {about.name}", f"{config.model.detector} on {config.model.backbone}"
    if name != wanted:
        raise UserError(f"{path} holds a {name}, the config is for a {wanted}")
    if fixed := [key for key, origin in origins.items() if key.startswith("model.") and origin == COMMAND_LINE]:
        raise UserError(
            f"{path} is an exported program, whose settings are fixed: leave out --config.{fixed[0]}, or evaluate the "
            "checkpoint"
        )
    model = dataclasses.replace(config.model, num_classes=len(about.classes.names))
    config = dataclasses.replace(config, model=model)
    config, lines = _with_stored(config, origins, *_preprocessing(about.preparation, config.data))
    height, width = about.canvas or (0, 0)
    return config, [*lines, f"all images on the program's only canvas, {width} × {height}, shrunk where they must be"]


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
