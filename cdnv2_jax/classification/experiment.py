"""Data, network, loss and metrics of classification experiments."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.evaluation import ClassificationEvaluation, evaluate
from cdnv2_jax.data.augment import Augmentation
from cdnv2_jax.data.batches import EvaluationRow, HostBatch, TrainingRow
from cdnv2_jax.data.on_device import TrainingPreprocessing
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.data.source import Sample, Source, Split
from cdnv2_jax.data.sources.open import open_source
from cdnv2_jax.devices import Devices
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.family import count_flops, model_entry
from cdnv2_jax.networks.network import Network
from cdnv2_jax.networks.zoo import create_model
from cdnv2_jax.pruning.prune import total_group_lasso
from cdnv2_jax.report.mistakes import Predictions, write_per_class, write_predictions
from cdnv2_jax.training.experiment import Experiment
from cdnv2_jax.training.step import Batch, Metrics
from cdnv2_jax.training.workdir import PER_CLASS_FILE, PREDICTIONS_FILE
from cdnv2_jax.weights.checkpoint import save
from cdnv2_jax.weights.metadata import USAGE_KEY, Usage
from cdnv2_jax.weights.open import network_from
from cdnv2_jax.weights.programs import compiled_forward


class ClassificationExperiment(Experiment[ClassificationConfig, Source[Sample], Network, ClassificationEvaluation]):
    """An experiment that trains a classifier."""

    device_fields = ("image", "label", "erase")
    summary_metric = "accuracy"

    def __init__(self, config: ClassificationConfig, devices: Devices):
        super().__init__(config, devices)
        self.per_replica = config.batch_norm == "replica"
        self.preparation = preparation_of(config)

    @property
    def title(self) -> str:
        return self.config.model.name

    def open_source(self, split: Split) -> Source[Sample]:
        return source_of(self.config, split)

    def training_row(self) -> tuple[TrainingRow, int]:
        data = self.config.data
        # Batches may span two epochs, so steps per epoch are rounded down.
        steps = len(self.train_images) // data.batch_size
        if not steps:
            raise UserError(f"config.data.batch_size {data.batch_size} exceeds the {len(self.train_images)} images")
        on_host = data.erase_on == "host" or (data.erase_on == "auto" and jax.default_backend() == "cpu")
        row = TrainingRow(
            self.train_images,
            self.shard(data.batch_size),
            self.config.seed,
            # The config has fields of the same names.
            Augmentation(**{field.name: getattr(data, field.name) for field in dataclasses.fields(Augmentation)}),
            normalise_with=(data.mean, data.std) if data.erase_probability and on_host else None,
            upright=data.exif_orientation,
            max_megapixels=data.max_megapixels,
        )
        return row, steps

    def evaluation_row(self) -> tuple[EvaluationRow, int]:
        row = EvaluationRow(
            self.held_out,
            self.shard(self.eval_batch_size),
            self.preparation,
            upright=self.config.data.exif_orientation,
            max_megapixels=self.config.data.max_megapixels,
        )
        return row, -(-len(self.held_out) // self.eval_batch_size)

    def build_model(self) -> Network:
        config, size = self.config, self.config.data.image_size
        model = starting_network(config)
        model.architecture.check_image(size, size)
        replicas = self.devices.count if self.per_replica else 1
        images = config.data.batch_size // config.accumulate // replicas
        if images * math.prod(model.architecture.smallest_map(size, size)) < 2:
            raise UserError(
                f"config.data.batch_size {config.data.batch_size} leaves BatchNorm a single value per channel: "
                f"use a larger one"
            )
        return model

    def loss(self, model: Network, batch: Batch) -> tuple[jax.Array, Metrics]:
        return classification_loss(
            model, batch, label_smoothing=self.config.label_smoothing, group_lasso=self.config.group_lasso
        )

    def preprocessing(self) -> Callable[[Batch, jax.Array], Batch]:
        return TrainingPreprocessing(self.normalisation, self.config.seed, self.config.data.mixup)

    def evaluate_batches(self, model: Network, batches: Iterator[HostBatch]) -> ClassificationEvaluation:
        return evaluate(model, batches, self.normalisation, self.devices)

    def inference(self, model: Network, batch: HostBatch) -> Callable[[], jax.Array]:
        forward, images = compiled_forward(model), self.normalisation(jnp.asarray(batch["image"]))
        return lambda: forward(images)

    def backbone_of(self, model: Network) -> Network:
        return model

    def save(self, path: Path, model: Network, metadata: Mapping[str, Any]) -> None:
        usage = Usage(self.preparation, self.train_images.class_names)
        save(path, model, metadata={**metadata, USAGE_KEY: usage.to_json()}, overwrite=True)

    def figures(self, evaluation: ClassificationEvaluation, model: Network | None = None) -> dict[str, Any]:
        figures: dict[str, Any] = {"accuracy": evaluation.top1, "top5": evaluation.top5, "loss": evaluation.loss}
        if model is None:
            return figures
        cost = count_flops(model, self.config.data.image_size)
        return {**figures, "flops": cost.flops, "params": cost.params}

    def table(self, summary: Mapping[str, Any], models: Mapping[str, Network]) -> dict[str, list[str]]:
        columns = [summary[name] for name in models]
        costs = [count_flops(model, self.config.data.image_size) for model in models.values()]
        return {
            "accuracy": [f"{column['accuracy']:.2%}" for column in columns],
            "FLOPs (official count)": [f"{cost.flops:,}" for cost in costs],
            "multiply-adds (true)": [f"{cost.multiply_adds:,}" for cost in costs],
            "parameters (official count)": [f"{cost.params:,}" for cost in costs],
            f"ms per image (batch {self.config.data.eval_batch_size})": [
                f"{column['ms_per_image']:.3f}" for column in columns
            ],
        }

    def write_results(self, workdir: Path, evaluations: Mapping[str, ClassificationEvaluation]) -> dict[str, Any]:
        """Write per_class.csv and predictions.csv."""
        *_, last = evaluations.values()
        write_per_class(workdir / PER_CLASS_FILE, self.held_out.class_names, last.per_class())
        predictions = Predictions.from_logits(last.logits, last.labels, last.images)
        write_predictions(workdir / PREDICTIONS_FILE, predictions)
        if "masked" not in evaluations:
            return {}
        difference = np.abs(evaluations["masked"].logits - last.logits).max()
        return {"max_logit_difference": float(difference)}


def source_of(config: ClassificationConfig, split: Split) -> Source[Sample]:
    """Open the images of one split; UserError if they are missing or do not fit the network."""
    data = config.data
    return open_source(
        data.source,
        directory=data.directory,
        split=split,
        image_size=data.image_size,
        num_classes=config.model.num_classes,
        count=data.synthetic_images or None,
    )


def preparation_of(config: ClassificationConfig) -> ImagePreparation:
    """Return the preprocessing for evaluation and for the trained network; UserError if the settings are unusable."""
    data = config.data
    resize = "centre" if data.crop == "random_resized" else "whole"
    interpolation = model_entry(config.model.name).interpolation
    try:
        return ImagePreparation(data.image_size, resize, interpolation, data.mean, data.std)
    except ValueError as error:
        raise UserError(f"config.data cannot be used: {error}") from error


def starting_network(config: ClassificationConfig) -> Network:
    """Build the network that training starts from: randomly initialised, or loaded from `config.model.checkpoint`."""
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


def classification_loss(
    model: Network, batch: Batch, *, label_smoothing: float = 0.0, group_lasso: float = 0.0
) -> tuple[jax.Array, Metrics]:
    """Return (scalar to minimise, {"loss", "accuracy"}). "loss" is the smoothed cross-entropy; the scalar to minimise
    also includes the group lasso, weighted by `group_lasso`.

    Args:
      model: network in training mode.
      batch: {"image", "label"}; after mixup also "other_label" and "share", the weight of "label".
      label_smoothing: probability mass spread evenly over all classes.
      group_lasso: weight of the group lasso.
    """
    logits = model(batch["image"])
    loss = smoothed_cross_entropy(logits, batch["label"], label_smoothing)
    if "other_label" in batch:
        share = batch["share"][0]  # the same for all images
        loss = share * loss + (1 - share) * smoothed_cross_entropy(logits, batch["other_label"], label_smoothing)
    total = loss + group_lasso * total_group_lasso(model) if group_lasso else loss
    return total, {"loss": loss, "accuracy": (logits.argmax(-1) == batch["label"]).mean()}


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Return the batch mean of −Σ q · log softmax, q = (1 − smoothing) on the label + smoothing / classes on all."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    target = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    return -((1 - smoothing) * target + smoothing * log_probabilities.mean(-1)).mean()
