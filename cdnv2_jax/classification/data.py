"""From a config to the images of an experiment in classification."""

import dataclasses

import jax

from cdnv2_jax.classification.config import ClassificationConfig, DataConfig
from cdnv2_jax.data.augment import Augmentation
from cdnv2_jax.data.batches import EvaluationRow, Share, TrainingRow
from cdnv2_jax.data.on_device import Normalisation
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.data.source import Sample, Source, Split
from cdnv2_jax.data.sources.open import open_source
from cdnv2_jax.devices import Devices
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.zoo import model_entry
from cdnv2_jax.weights.usage import Usage


def source_of(config: ClassificationConfig, split: Split) -> Source[Sample]:
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


def training_row(config: ClassificationConfig, source: Source[Sample]) -> TrainingRow:
    """What makes this process's rows of training batches."""
    data = config.data
    on_host = data.erase_on == "host" or (data.erase_on == "auto" and jax.default_backend() == "cpu")
    # The config's fields of the same names.
    augmentation = Augmentation(**{field.name: getattr(data, field.name) for field in dataclasses.fields(Augmentation)})
    return TrainingRow(
        source,
        Share(data.batch_size, jax.process_index(), jax.process_count()),
        config.seed,
        augmentation,
        normalise_with=(data.mean, data.std) if data.erase_probability and on_host else None,
    )


def preparation_in(config: ClassificationConfig) -> ImagePreparation:
    """How images are prepared for evaluation and, as the trained network's metadata says, for everything after it."""
    data = config.data
    resize = "centre" if data.crop == "random_resized" else "whole"
    interpolation = model_entry(config.model.name).interpolation
    try:
        return ImagePreparation(data.image_size, resize, interpolation, data.mean, data.std)
    except ValueError as error:
        raise UserError(f"config.data cannot be used: {error}") from error


def evaluation_row(config: ClassificationConfig, source: Source[Sample], devices: Devices) -> EvaluationRow:
    """What makes this process's rows of evaluation batches."""
    batch_size = -(-config.data.eval_batch_size // devices.count) * devices.count
    share = Share(batch_size, jax.process_index(), jax.process_count())
    return EvaluationRow(source, share, preparation_in(config))


def usage_in(config: ClassificationConfig, source: Source[Sample]) -> Usage:
    """How to use the network that is trained: images prepared as for its evaluation, classes as its data calls them."""
    return Usage(preparation_in(config), source.class_names)


def normalisation_of(data: DataConfig) -> Normalisation:
    return Normalisation(data.mean, data.std)
