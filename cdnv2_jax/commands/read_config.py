"""Read the settings of an experiment from a config file and the command line; `config.task` selects its kind."""

import os
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cdnv2_jax.bounded_reading import read_json
from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.experiment import ClassificationExperiment
from cdnv2_jax.commands.shipped_configs import config_files, with_path
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.experiment import DetectionExperiment
from cdnv2_jax.devices import Devices
from cdnv2_jax.errors import UserError, cut, one_line, shorten
from cdnv2_jax.paths import as_path, is_remote
from cdnv2_jax.schema import Field, Text, build, flat_fields
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.training.experiment import Experiment

CONFIGS: Mapping[str, type[RunConfig]] = {
    "classification": ClassificationConfig,
    "detection": DetectionConfig,
}
FLAG = "--config."
LONGEST_MESSAGE = 1000  # letters; names and values come from the file
CONFIG_FILE, COMMAND_LINE = "config file", "command line"
"""Where a value comes from."""

LARGEST_PROGRAM = 1 << 20
"""Bytes of a config file in Python; it would be read as a whole."""

PATHS = (("data", "directory"), ("model", "checkpoint"))
"""Fields that are paths on this machine."""


def check_config(values: Any) -> RunConfig:
    """Check nested values and return them as settings; `task` defaults to classification.

    Raises:
      UserError: a field is unknown, missing or invalid; the message gives its full dotted name.
    """
    task = values.get("task", "classification") if isinstance(values, Mapping) else "classification"
    cls = CONFIGS[Field("config.task", Literal[*CONFIGS], "classification").checked(task)]
    return build(cls, values, "config")


def make_experiment(config: RunConfig, devices: Devices) -> Experiment:
    """Create the experiment that a config describes."""
    if isinstance(config, DetectionConfig):
        return DetectionExperiment(config, devices)
    assert isinstance(config, ClassificationConfig)
    return ClassificationExperiment(config, devices)


def read_config(spec: str, overrides: Sequence[str]) -> RunConfig:
    """Read a config file, apply the overrides of the command line, and check every field.

    Args:
      spec: name of a config that comes with the package, or path of a Python file with `get_config`, both optionally
        followed by `:variant`; or path of the config.json that a run wrote.
      overrides: arguments of the form `--config.data.batch_size=32`.

    Raises:
      UserError: the file does not exist or does not run, a field is unknown, or a value is not allowed.
    """
    return read_with_origins(spec, overrides)[0]


def read_with_origins(spec: str, overrides: Sequence[str]) -> tuple[RunConfig, dict[str, str]]:
    """Return what `read_config` does, and where values come from: dotted name → "config file" or "command line"."""
    located = with_path(os.path.expanduser(spec))
    name, *variant = [located] if "://" in located else located.split(":", 1)
    path = as_path(name)
    if path.exists() and not path.is_file():
        raise UserError(f"--config {path} is not a file: give a Python file, or the config.json of a run")
    if not path.is_file():
        beside = sorted(str(other) for other in path.parent.glob("*.py")) if path.suffix else []
        there = shorten([*config_files(), *beside], most=16)
        raise UserError(f"--config {path}: no such file, and no config of the package; there are {there}")
    try:
        values = _load(path, variant)
        origins = dict.fromkeys(flat_fields(values), CONFIG_FILE)
        for argument in overrides:
            name, given, text = argument.removeprefix(FLAG).partition("=")
            if not given:
                raise UserError(f"{argument} gives no value: write {argument}=VALUE")
            _replace(values, name.split("."), Text(text))
            origins[name] = COMMAND_LINE
        _expand_home(values)
        return check_config(values), origins
    except UserError as error:
        raise UserError(f"{spec}: {cut(str(error), LONGEST_MESSAGE)}") from error
    except (Exception, SystemExit) as error:  # a config file is a program and can raise anything
        raise UserError(f"{spec}: {one_line(error)}") from error


def _load(path: Path, variant: Sequence[str]) -> dict[str, Any]:
    """Call the file's `get_config` and return its result as nested dicts; a JSON file holds them already."""
    if path.name.endswith(".json"):
        if variant:
            raise UserError(f"{path} is the config of a run and has no variant {variant[0]!r}")
        try:
            return read_json(path)
        except ValueError as error:
            raise UserError(f"it is not the config of a run: {error}") from error
    if is_remote(path):
        raise UserError("a config file in Python is not run from a bucket: copy it to this machine")
    if os.path.getsize(path) > LARGEST_PROGRAM:
        raise UserError(f"it has more than {LARGEST_PROGRAM:,} bytes, so it is not a config")
    module = runpy.run_path(str(path), run_name="config")
    if "get_config" not in module:
        raise UserError(f"{path} defines no get_config")
    values = _plain(module["get_config"](*variant))
    if not isinstance(values, dict):
        raise UserError(f"get_config must return a ConfigDict or a dict, got {values!r}")
    return values


def _expand_home(values: dict[str, Any]) -> None:
    """Replace a leading ~ of the paths in a config by the home directory."""
    for part, name in PATHS:
        fields = values.get(part)
        if isinstance(fields, dict) and isinstance(fields.get(name), str):
            fields[name] = os.path.expanduser(fields[name])


def _plain(values: Any) -> Any:
    if hasattr(values, "to_dict"):
        values = values.to_dict()
    return {key: _plain(value) for key, value in values.items()} if isinstance(values, Mapping) else values


def _replace(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parts, last = path
    for part in parts:
        if not isinstance(values.get(part), dict):
            values[part] = {}
        values = values[part]
    values[last] = value
