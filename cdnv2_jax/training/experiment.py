"""What a config stands for: its network, its data, its length; all that does not change while it trains."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cdnv2_jax.data.augment.training_image import Augmentation
from cdnv2_jax.data.order import Share
from cdnv2_jax.data.pipeline import EvaluationRow, TrainingRow
from cdnv2_jax.data.readers.open import open_source
from cdnv2_jax.data.source import Source, Split
from cdnv2_jax.devices import Devices
from cdnv2_jax.errors import UserError
from cdnv2_jax.models.condensenet import CondenseNet
from cdnv2_jax.models.registry import create_model, model_entry
from cdnv2_jax.preprocessing import Normalisation, TrainingPreprocessing
from cdnv2_jax.training.config import DataConfig, TrainConfig
from cdnv2_jax.training.optimizer import learning_rate_schedule, make_optimizer
from cdnv2_jax.training.starting_point import network_from
from cdnv2_jax.training.state import TrainState, create_state
from cdnv2_jax.training.step import Objective, TrainStep, make_train_step


class Experiment:
    """A config made ready to run on some devices.

    Attributes:
      config, devices: what it was made from.
      train_source: the training images. row: makes this process's rows of training batches from them.
      steps_per_epoch, total_steps: its length; batches span epochs, an epoch is as many steps as it has whole batches.
      optimizer, schedule: of the learning rate, scaled to the batch.
      graph: the network's structure; with a `TrainState` it makes the network. stages: condensation stages it has.
    """

    def __init__(self, config: TrainConfig, devices: Devices):
        self.config, self.devices = config, devices
        data = config.data
        devices.check_batch(data.batch_size, "config.data.batch_size")
        if data.batch_size % (config.accumulate * devices.count):
            raise UserError(
                f"config.accumulate {config.accumulate} does not divide the {data.batch_size // devices.count} images "
                f"that each of {devices.count} devices has of a batch"
            )
        self.train_source = source_of(config, "train")
        self.row = training_row(config, self.train_source)
        self.steps_per_epoch = len(self.train_source) // data.batch_size
        if not self.steps_per_epoch:
            raise UserError(f"data.batch_size {data.batch_size} is more than the {len(self.train_source)} images")
        self.total_steps = config.epochs * self.steps_per_epoch
        optimizer = config.optimizer.scaled_to(data.batch_size)
        self.schedule = learning_rate_schedule(optimizer, self.total_steps, self.steps_per_epoch)
        self.optimizer: optax.GradientTransformation = make_optimizer(optimizer, self.schedule)
        model = starting_network(config)
        self._check_images(model)
        self.stages = 0 if model.form.condensed else model.architecture.condensation_stages
        self.graph, self._state = create_state(model, self.optimizer)

    def initial_state(self) -> TrainState:
        """A state to start from, on all devices; a new copy each time."""
        return self.devices.replicate(self._state)

    def state_shapes(self) -> TrainState:
        """The shapes and dtypes of a state."""
        return jax.eval_shape(lambda state: state, self._state)

    def train_step(self) -> TrainStep:
        """The compiled step; takes batches as `row` makes them (see `device_part`)."""
        config = self.config
        return make_train_step(
            self.graph,
            self.optimizer,
            Objective(config.label_smoothing, config.group_lasso, config.ema_decay, config.accumulate),
            preprocess=TrainingPreprocessing(normalisation_of(config.data), config.seed, config.data.mixup),
            devices=self.devices,
            per_replica=config.batch_norm == "replica",
        )

    def _check_images(self, model: CondenseNet) -> None:
        """UserError when images are too small for the network, or batches for its batch normalisation."""
        config, a = self.config, model.architecture
        a.check_image(config.data.image_size, config.data.image_size)
        replicas = self.devices.count if config.batch_norm == "replica" else 1
        images = config.data.batch_size // config.accumulate // replicas
        if images * a.map_side(len(a.stages) - 1, config.data.image_size) ** 2 < 2:
            raise UserError(
                f"config.data.batch_size {config.data.batch_size} leaves batch normalisation one value per channel: "
                f"use more"
            )


def source_of(config: TrainConfig, split: Split) -> Source:
    """The images of one split; UserError when they are not there or do not fit the network."""
    data = config.data
    return open_source(
        data.source,
        directory=data.directory,
        split=split,
        image_size=data.image_size,
        num_classes=config.model.num_classes,
        count=data.synthetic_images or None,
    )


def training_row(config: TrainConfig, source: Source) -> TrainingRow:
    """What makes this process's rows of training batches."""
    data = config.data
    on_host = data.erase_on == "host" or (data.erase_on == "auto" and jax.default_backend() == "cpu")
    # The config's fields of the same names.
    augmentation = Augmentation(**{field.name: getattr(data, field.name) for field in dataclasses.fields(Augmentation)})
    return TrainingRow(
        source,
        augmentation,
        Share(data.batch_size, jax.process_index(), jax.process_count()),
        config.seed,
        normalise_with=(data.mean, data.std) if data.erase_probability and on_host else None,
    )


def evaluation_row(config: TrainConfig, source: Source, devices: Devices) -> EvaluationRow:
    """What makes this process's rows of evaluation batches, prepared as the model's registry entry says."""
    data = config.data
    batch_size = -(-data.eval_batch_size // devices.count) * devices.count
    return EvaluationRow(
        source,
        Share(batch_size, jax.process_index(), jax.process_count()),
        data.image_size,
        resized=data.crop == "random_resized",
        interpolation=model_entry(config.model.name).interpolation,
    )


def normalisation_of(data: DataConfig) -> Normalisation:
    return Normalisation(data.mean, data.std)


def starting_network(config: TrainConfig) -> CondenseNet:
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
