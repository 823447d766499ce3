"""What a config stands for: its network, its data, its length; all that does not change while it trains."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from rich.console import Console

from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.data import normalisation_of, source_of, training_row, usage_in
from cdnv2_jax.classification.evaluation import HeldOut
from cdnv2_jax.classification.finish import RESULTS, finish
from cdnv2_jax.classification.objective import Objective
from cdnv2_jax.data.on_device import TrainingPreprocessing
from cdnv2_jax.devices import Devices
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.family import AnyNetwork
from cdnv2_jax.networks.zoo import create_model
from cdnv2_jax.training.optimizer import learning_rate_schedule, make_optimizer
from cdnv2_jax.training.state import TrainState, create_state
from cdnv2_jax.training.step import TrainStep, check_parts, make_train_step
from cdnv2_jax.weights.checkpoint import save
from cdnv2_jax.weights.open import network_from
from cdnv2_jax.weights.usage import KEY


class Experiment:
    """A config made ready to run on some devices: the `Task` (`training/experiment.py`) of classification.

    Attributes:
      train_source: the training images. optimizer: with its schedule, scaled to the batch.
    """

    device_fields: Sequence[str] = ("image", "label", "erase")
    results: Sequence[str] = RESULTS

    def __init__(self, config: ClassificationConfig, devices: Devices):
        self.config, self.devices = config, devices
        data = config.data
        check_parts(config, devices)
        self.train_source = source_of(config, "train")
        self.row = training_row(config, self.train_source)
        # Batches span epochs: an epoch is as many steps as it has whole batches.
        self.steps_per_epoch = len(self.train_source) // data.batch_size
        if not self.steps_per_epoch:
            raise UserError(f"data.batch_size {data.batch_size} is more than the {len(self.train_source)} images")
        self.total_steps = config.epochs * self.steps_per_epoch
        optimizer = config.optimizer.scaled_to(data.batch_size)
        self.schedule = learning_rate_schedule(optimizer, self.total_steps, self.steps_per_epoch)
        self.optimizer: optax.GradientTransformation = make_optimizer(optimizer, self.schedule)
        model = starting_network(config)
        model.remat = config.remat
        self._check_images(model)
        self.stages = model.condensation_stages
        self.graph, self._state = create_state(model, self.optimizer)
        self.held_out = HeldOut(config, devices)

    @property
    def per_replica(self) -> bool:
        return self.config.batch_norm == "replica"

    @property
    def title(self) -> str:
        return self.config.model.name

    def initial_state(self) -> TrainState:
        """A state to start from, on all devices; a new copy each time."""
        return self.devices.replicate(self._state)

    def state_shapes(self) -> TrainState:
        """The shapes and dtypes of a state."""
        return jax.eval_shape(lambda state: state, self._state)

    def train_step(self) -> TrainStep:
        """The compiled step; takes the `device_fields` of batches as `row` makes them."""
        config = self.config
        return make_train_step(
            self.graph,
            self.optimizer,
            Objective(config.label_smoothing, config.group_lasso, config.ema_decay, config.accumulate),
            preprocess=TrainingPreprocessing(normalisation_of(config.data), config.seed, config.data.mixup),
            devices=self.devices,
            per_replica=self.per_replica,
        )

    def save(self, path: Path, model: AnyNetwork, metadata: Mapping[str, Any]) -> None:
        """As a checkpoint that says how to use it, in place of one that is there."""
        usage = usage_in(self.config, self.train_source)
        save(path, model, metadata={**metadata, KEY: usage.to_json()}, overwrite=True)

    def finish(self, trained: AnyNetwork, live: AnyNetwork | None, workdir: Path, console: Console) -> None:
        """See `classification/finish.py`."""
        finish(trained, live, self.config, self.held_out, workdir, console)

    def _check_images(self, model: AnyNetwork) -> None:
        """UserError when images are too small for the network, or batches for its batch normalisation."""
        config, size = self.config, self.config.data.image_size
        model.architecture.check_image(size, size)
        replicas = self.devices.count if self.per_replica else 1
        images = config.data.batch_size // config.accumulate // replicas
        if images * math.prod(model.architecture.smallest_map(size, size)) < 2:
            raise UserError(
                f"config.data.batch_size {config.data.batch_size} leaves batch normalisation one value per channel: "
                f"use more"
            )


def starting_network(config: ClassificationConfig) -> AnyNetwork:
    """The network that training starts from: new, or the one of `config.model.checkpoint`."""
    model = config.model
    if model.checkpoint:
        return network_from(
            Path(model.checkpoint),
            name=model.name,
            num_classes=model.num_classes,
            overrides=model.overrides,
            dtype=jnp.dtype(model.dtype),
            seed=config.seed,
        )
    return create_model(
        model.name,
        num_classes=model.num_classes,
        rngs=nnx.Rngs(config.seed),
        dtype=jnp.dtype(model.dtype),
        **model.overrides,
    )
