"""What a config of detection stands for: its detector, its data, its length; the `Task` of `training/experiment.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from rich.console import Console

from cdnv2_jax.data.batches import Share
from cdnv2_jax.data.on_device import Normalisation
from cdnv2_jax.detection.build import build_detector
from cdnv2_jax.detection.checkpoint import Classes, save_detector
from cdnv2_jax.detection.config import DetectionConfig, DetectorConfig, settings_of
from cdnv2_jax.detection.data.batches import DetectionTrainingRow
from cdnv2_jax.detection.data.canvas import KEY
from cdnv2_jax.detection.data.sources import open_source
from cdnv2_jax.detection.detector import PyramidDetector, set_training_mode, trainable_parameters
from cdnv2_jax.detection.evaluation import HeldOutDetection
from cdnv2_jax.detection.finish import RESULTS, finish
from cdnv2_jax.detection.objective import DetectionObjective, DetectionPreprocessing
from cdnv2_jax.devices import Devices
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.zoo import create_model
from cdnv2_jax.training.optimizer import learning_rate_schedule, make_optimizer
from cdnv2_jax.training.state import TrainState, create_state
from cdnv2_jax.training.step import TrainStep, check_parts, make_train_step
from cdnv2_jax.weights.open import network_from


class DetectionExperiment:
    """A config made ready to run on some devices.

    Attributes:
      train_source: the training images. optimizer: with its schedule, scaled to the batch; frozen parameters stay.
    """

    device_fields: Sequence[str] = ("image", "size", "boxes", "labels", "valid")
    results: Sequence[str] = RESULTS
    per_replica = False

    def __init__(self, config: DetectionConfig, devices: Devices):
        self.config, self.devices = config, devices
        data = config.data
        check_parts(config, devices)
        self.train_source = open_source(data.source, directory=data.directory, split="train", shapes=data.shapes_images)
        self._check_classes(len(self.train_source.class_names))
        share = Share(data.batch_size, jax.process_index(), jax.process_count())
        self.row = DetectionTrainingRow(self.train_source, share, config.seed, data.preparation, flips=data.flip)
        self.steps_per_epoch = self.row.steps_per_epoch
        self.total_steps = config.epochs * self.steps_per_epoch
        optimizer = config.optimizer.scaled_to(data.batch_size)
        self.schedule = learning_rate_schedule(optimizer, self.total_steps, self.steps_per_epoch)
        detector = starting_detector(config.model, config.seed)
        detector.backbone.remat = config.remat
        detector.canvases_filled = self.row.fills_canvas
        self.stages = detector.backbone.condensation_stages
        trained = trainable_parameters(detector)
        self.optimizer = optax.chain(
            optax.masked(make_optimizer(optimizer, self.schedule), trained),
            optax.masked(optax.set_to_zero(), jax.tree.map(lambda trains: not trains, trained)),
        )
        self.graph, self._state = create_state(detector, self.optimizer, set_training_mode=set_training_mode)
        self.held_out = HeldOutDetection(config, devices)

    @property
    def title(self) -> str:
        return f"{self.config.model.detector} on {self.config.model.backbone}"

    def initial_state(self) -> TrainState:
        """A state to start from, on all devices; a new copy each time."""
        return self.devices.replicate(self._state)

    def train_step(self) -> TrainStep:
        """The compiled step; takes the `device_fields` of batches as `row` makes them."""
        config = self.config
        return make_train_step(
            self.graph,
            self.optimizer,
            DetectionObjective(config.ema_decay, config.accumulate),
            preprocess=DetectionPreprocessing(Normalisation(config.data.mean, config.data.std), config.seed),
            devices=self.devices,
        )

    @property
    def classes(self) -> Classes:
        """What labels stand for."""
        return Classes(self.train_source.class_names, self.train_source.category_ids)

    def save(self, path: Path, model: Any, metadata: Mapping[str, Any]) -> None:
        """As a checkpoint, in place of one that is there; it says how it is used."""
        usage = self.config.data.preparation.to_json()
        save_detector(path, model, self.classes, metadata={**metadata, KEY: usage}, overwrite=True)

    def finish(self, trained: Any, live: Any | None, workdir: Path, console: Console) -> None:
        """See `detection/finish.py`."""
        finish(trained, live, self.config, self.held_out, self.classes, workdir, console)

    def _check_classes(self, found: int) -> None:
        wanted = self.config.model.num_classes
        if found != wanted:
            raise UserError(
                f"{self.config.data.directory or self.config.data.source} has {found} classes, the detector tells "
                f"{wanted} apart: set config.model.num_classes to {found}"
            )


def starting_detector(model: DetectorConfig, seed: int) -> PyramidDetector:
    """The detector that training starts from: its backbone new, or the classifier of `config.model.checkpoint`."""
    dtype, rngs = jnp.dtype(model.dtype), nnx.Rngs(seed)
    if model.checkpoint:
        backbone = network_from(
            Path(model.checkpoint),
            name=model.backbone,
            num_classes=None,
            overrides=model.overrides,
            dtype=dtype,
            seed=seed,
            fields=("config.model.checkpoint", "config.model.backbone"),
        )
    else:
        # The classifier is not used: one class makes it as small as may be.
        backbone = create_model(model.backbone, num_classes=1, rngs=rngs, dtype=dtype, **model.overrides)
    return build_detector(settings_of(model), backbone, dtype=dtype, rngs=rngs)
