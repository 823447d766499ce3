"""The kinds of experiment there are; `config.task` of a config file says which one it is."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.experiment import ClassificationExperiment
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.experiment import DetectionExperiment
from cdnv2_jax.devices import Devices
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.training.experiment import Experiment
from cdnv2_jax.training.parse_config import parse_config, with_defaults

CONFIGS: Mapping[str, type[RunConfig]] = {
    "classification": ClassificationConfig,
    "detection": DetectionConfig,
}


def config_class(values: Mapping[str, Any]) -> type[RunConfig]:
    """The schema of a config file's values; files that do not say which task they are for are for classification."""
    task = values.get("task", "classification")
    if task not in CONFIGS:
        near = difflib.get_close_matches(str(task), CONFIGS, n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise UserError(f"config.task must be one of {', '.join(CONFIGS)}, got {task!r}{hint}")
    return CONFIGS[task]


def make_experiment(config: RunConfig, devices: Devices) -> Experiment:
    """The experiment of a config."""
    if isinstance(config, DetectionConfig):
        return DetectionExperiment(config, devices)
    assert isinstance(config, ClassificationConfig)
    return ClassificationExperiment(config, devices)


def read_config(spec: str, overrides: Sequence[str]) -> RunConfig:
    """Loads a config file and applies overrides.

    Args:
      spec: path of a Python file with `get_config`, perhaps followed by `:variant`.
      overrides: arguments of the form `--config.data.batch_size=32`.

    Raises:
      UserError: no such file, a file that does not run, an unknown key or a value of the wrong type.
    """
    path = Path(spec.split(":", 1)[0])
    if not path.is_file():
        there = sorted(str(other) for other in path.parent.glob("*.py"))
        hint = f"; there are {', '.join(there)}" if there else ""
        raise UserError(f"--config {path}: no such file{hint}")
    try:
        given = _load(spec).to_dict()
        cls = config_class(given)
        complete = ConfigDict(with_defaults(given, cls))
        values = flags.FlagValues()
        arguments = ["main.py", *overrides]
        config_flags.DEFINE_config_dict("config", complete, flag_values=values, sys_argv=arguments)
        values(arguments)
        loaded: Any = values["config"].value
        config = parse_config(loaded.to_dict(), cls)
        config.check()
    except UserError as error:
        raise UserError(f"{spec}: {error}") from error
    except (Exception, SystemExit) as error:  # a config file is a program: it may end in any way
        raise UserError(f"{spec}: {one_line(error)}") from error
    return config


def _load(spec: str) -> Any:
    """What the file's `get_config` returns."""
    values = flags.FlagValues()
    arguments = ["main.py", f"--config={spec}"]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    values(arguments)
    return values["config"].value
