"""The kinds of experiment there are; `config.task` of a config file says which one it is."""

import difflib
from collections.abc import Mapping
from typing import Any

from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.experiment import Experiment
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.experiment import DetectionExperiment
from cdnv2_jax.devices import Devices
from cdnv2_jax.errors import UserError
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.training.task import Task

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


def make_task(config: RunConfig, devices: Devices) -> Task:
    """The experiment of a config, ready to run."""
    if isinstance(config, DetectionConfig):
        return DetectionExperiment(config, devices)
    assert isinstance(config, ClassificationConfig)
    return Experiment(config, devices)
