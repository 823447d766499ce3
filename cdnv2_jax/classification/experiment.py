"""Data, network, loss and metrics of classification experiments."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.classification.config import ClassificationConfig, preparation_of
from cdnv2_jax.classification.evaluation import ClassificationEvaluation, evaluate, evaluate_program
from cdnv2_jax.data.augment import Augmentation
from cdnv2_jax.data.batches import EvaluationRow, HostBatch, TrainingRow
from cdnv2_jax.data.class_names import describe_match, labels_to_evaluate
from cdnv2_jax.data.on_device import TrainingPreprocessing
from cdnv2_jax.data.source import Sample, Source, Split
from cdnv2_jax.data.sources.open import open_source
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.devices import Devices
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.family import network_cost
from cdnv2_jax.networks.network import Form, Network
from cdnv2_jax.networks.zoo import create_model
from cdnv2_jax.paths import as_path
from cdnv2_jax.pruning.prune import total_group_lasso
from cdnv2_jax.report.mistakes import Predictions, write_per_class, write_predictions
from cdnv2_jax.training.experiment import Experiment, refuse_several_processes
from cdnv2_jax.training.step import Batch, Metrics
from cdnv2_jax.training.workdir import PER_CLASS_FILE, PREDICTIONS_FILE
from cdnv2_jax.weights.checkpoint import save
from cdnv2_jax.weights.programs import compiled_forward
from cdnv2_jax.weights.starting_point import StartingPoint, network_from


class ClassificationExperiment(Experiment[ClassificationConfig, Source[Sample], Network, ClassificationEvaluation]):
    """An experiment that trains a classifier."""

    device_fields = ("image", "label", "erase")
    summary_metric = "accuracy"
    summary_rows = ("accuracy", "multiply_adds", "flops", "params", "bytes_on_disk", "ms_per_image")

    def __init__(self, config: ClassificationConfig, devices: Devices):
        super().__init__(config, devices)
        self.per_replica = config.batch_norm == "replica"
        self.preparation = preparation_of(config)
        self.columns: Sequence[int] | None = None  # the logits of the held-out images' classes; None for all

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
        self._check_classes()
        model, remark = starting_network(config, self.train_images.class_names)
        self.remarks += [remark] if remark else []
        model.usage = Usage(self.preparation, self.train_images.class_names)
        model.architecture.check_image(size, size)
        replicas = self.devices.count if self.per_replica else 1
        images = config.data.batch_size // config.accumulate // replicas
        if images * math.prod(model.architecture.smallest_map(size, size)) < 2:
            raise UserError(
                f"config.data.batch_size {config.data.batch_size} leaves BatchNorm a single value per channel: "
                f"use a larger one"
            )
        return model

    def _check_classes(self) -> None:
        """Raise UserError unless the network has the classes of the training images, and these the held-out ones."""
        data, names = self.config.data, self.train_images.class_names
        if len(names) != self.config.model.num_classes:
            raise UserError(
                f"{data.directory or data.source} has {len(names)} classes, the network "
                f"{self.config.model.num_classes}: set config.model.num_classes to {len(names)}"
            )
        self.match_classes(names, len(names))

    def match_classes(self, class_names: Sequence[str], num_classes: int) -> None:
        """Match the held-out images' classes with those of a network; see `labels_to_evaluate`.

        Args:
          class_names: the network's, one for each logit; empty if unknown.
          num_classes: number of logits.

        Raises:
          UserError: the network does not have every class of the images.
        """
        names = self.held_out.class_names
        if list(names) == list(class_names):
            return
        self.columns = labels_to_evaluate(names, class_names, num_classes)
        if remark := describe_match(names, class_names, self.columns, num_classes):
            self.remarks.append(remark)

    def loss(self, model: Network, batch: Batch) -> tuple[jax.Array, Metrics]:
        return classification_loss(
            model, batch, label_smoothing=self.config.label_smoothing, group_lasso=self.config.group_lasso
        )

    def preprocessing(self) -> Callable[[Batch, jax.Array], Batch]:
        return TrainingPreprocessing(self.normalisation, self.config.seed, self.config.data.mixup)

    def evaluate_batches(self, model: Network, batches: Iterator[HostBatch]) -> ClassificationEvaluation:
        return evaluate(model, batches, self.normalisation, self.devices, self.columns)

    def evaluate_program(self, logits_of: Callable[[np.ndarray], np.ndarray]) -> ClassificationEvaluation:
        """Evaluate an exported program on every held-out image once, in a single process; raises what `evaluate` does.

        Raises:
          UserError: there are several processes.
        """
        refuse_several_processes()
        return self.evaluate_with(
            lambda batches: evaluate_program(logits_of, batches, self.normalisation, self.columns)
        )

    def inference(self, model: Network, batch: HostBatch) -> Callable[[], jax.Array]:
        forward, images = compiled_forward(model), self.normalisation(jnp.asarray(batch["image"]))
        return lambda: forward(images)

    def backbone_of(self, model: Network) -> Network:
        return model

    def save(self, path: Path, model: Network, metadata: Mapping[str, Any]) -> None:
        save(path, model, metadata=metadata, overwrite=True)

    def figures(self, evaluation: ClassificationEvaluation) -> dict[str, Any]:
        recorded = evaluation.recorded
        return {"accuracy": recorded.pop("top1"), "top5": recorded.pop("top5"), **recorded}

    def cost(self, model: Network, form: Form) -> dict[str, int]:
        size = self.config.data.image_size
        cost = network_cost(model.architecture, form, size, size)
        return {"multiply_adds": cost.multiply_adds, "flops": cost.flops, "params": cost.params}

    def write_results(self, workdir: Path, evaluations: Mapping[str, ClassificationEvaluation]) -> dict[str, Any]:
        """Write per_class.csv and predictions.csv."""
        *_, last = evaluations.values()
        write_per_class(workdir / PER_CLASS_FILE, self.held_out.class_names, last.per_class())
        predictions = Predictions.from_logits(last.logits, last.labels, last.images)
        write_predictions(workdir / PREDICTIONS_FILE, predictions)
        if "masked" not in evaluations:
            return {}
        with np.errstate(invalid="ignore"):  # infinity less infinity
            difference = np.abs(evaluations["masked"].logits - last.logits).max()
        return {"max_logit_difference": float(difference)} if np.isfinite(difference) else {}


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
        held_out_fraction=data.held_out_fraction,
    )


def starting_network(config: ClassificationConfig, class_names: Sequence[str]) -> StartingPoint:
    """Build the network that training starts from: randomly initialised, or loaded from `config.model.checkpoint`."""
    model = config.model
    if model.checkpoint:
        return network_from(
            as_path(model.checkpoint),
            name=model.name,
            class_names=class_names,
            overrides=model.overrides,
            dtype=jnp.dtype(model.dtype),
            seed=config.seed,
        )
    rngs, dtype = nnx.Rngs(config.seed), jnp.dtype(model.dtype)
    network = create_model(model.name, num_classes=model.num_classes, rngs=rngs, dtype=dtype, **model.overrides)
    return StartingPoint(network, "")


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
