"""Data, network, loss and results of detection experiments."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cdnv2_jax.data.batches import HostBatch
from cdnv2_jax.data.canvas import KEY
from cdnv2_jax.data.on_device import Normalisation
from cdnv2_jax.data.source import Split
from cdnv2_jax.detection.classes import match_held_out
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.data.annotations import DetectionSource, Id
from cdnv2_jax.detection.data.batches import DetectionEvaluationRow, DetectionTrainingRow
from cdnv2_jax.detection.data.sources import open_source
from cdnv2_jax.detection.evaluation import (
    DetectionEvaluation,
    canvas_images,
    compiled_detect,
    detector_fields,
    evaluate,
    evaluate_program,
    write_results,
)
from cdnv2_jax.detection.pictures import write_examples
from cdnv2_jax.detection.starting_point import starting_detector
from cdnv2_jax.detectors.cost import cost_of
from cdnv2_jax.detectors.detector import (
    Classes,
    PyramidDetector,
    Targets,
    set_training_mode,
    trainable_parameters,
)
from cdnv2_jax.devices import Devices
from cdnv2_jax.errors import UserError, import_optional
from cdnv2_jax.networks.network import Form, Network
from cdnv2_jax.report.precision import write_precision
from cdnv2_jax.training.experiment import Experiment, refuse_several_processes
from cdnv2_jax.training.step import Batch, Metrics
from cdnv2_jax.training.workdir import DETECTIONS, EXAMPLES, PRECISION_FILE
from cdnv2_jax.weights.checkpoint import save_detector
from cdnv2_jax.weights.detector_programs import Detect


class DetectionExperiment(Experiment[DetectionConfig, DetectionSource, PyramidDetector, DetectionEvaluation]):
    """An experiment that trains a detector on a backbone."""

    device_fields = ("image", "size", "boxes", "labels", "valid")
    summary_metric = "AP"
    summary_rows = (
        *("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"),
        *("multiply_adds", "params", "bytes_on_disk", "ms_per_image"),
    )

    @property
    def title(self) -> str:
        return f"{self.config.model.detector} on {self.config.model.backbone}"

    category_ids: Sequence[Id | None]
    """For each label of the detector, the id of its category in the held-out images; see `evaluate`."""
    canvas: tuple[int, int] | None = None
    """Height and width of the canvas of all held-out images; None for one of each orientation."""

    def open_source(self, split: Split) -> DetectionSource:
        """Open the images of one split; UserError if they are missing, or val has other categories than train."""
        import_optional("pycocotools", "detection")  # otherwise missed after the first epoch
        source = source_of(self.config, split)
        if split == "val":
            self.category_ids = source.category_ids
        else:
            self.category_ids, remarks = match_held_out(source, self.held_out)
            self.remarks += remarks
        return source

    def training_row(self) -> tuple[DetectionTrainingRow, int]:
        data, found = self.config.data, len(self.train_images.class_names)
        if found != self.config.model.num_classes:
            raise UserError(
                f"{data.directory or data.source} has {found} classes, but the detector has "
                f"{self.config.model.num_classes}: set config.model.num_classes to {found}"
            )
        row = DetectionTrainingRow(
            self.train_images,
            self.shard(data.batch_size),
            self.config.seed,
            data.preparation,
            flips=data.flip,
            max_megapixels=data.max_megapixels,
            keep_empty=data.empty_images == "keep",
        )
        return row, row.steps_per_epoch

    def evaluation_row(self) -> tuple[DetectionEvaluationRow, int]:
        data = self.config.data
        row = DetectionEvaluationRow(
            self.held_out,
            self.shard(self.eval_batch_size),
            data.preparation,
            self.canvas,
            max_megapixels=data.max_megapixels,
        )
        return row, row.batches

    def build_model(self) -> PyramidDetector:
        detector, remark = starting_detector(self.config.model, self.train_images.class_names, self.config.seed)
        self.remarks += [remark] if remark else []
        detector.canvases_filled = self.training_row()[0].fills_canvas
        return detector

    def build_optimizer(self, model: PyramidDetector) -> optax.GradientTransformation:
        """Build the config's optimizer; it leaves frozen parameters unchanged."""
        trained = trainable_parameters(model)
        return optax.chain(
            optax.masked(super().build_optimizer(model), trained),
            optax.masked(optax.set_to_zero(), jax.tree.map(lambda trains: not trains, trained)),
        )

    def set_training_mode(self, model: PyramidDetector) -> None:
        set_training_mode(model)

    def loss(self, model: PyramidDetector, batch: Batch) -> tuple[jax.Array, Metrics]:
        return detection_loss(model, batch)

    def preprocessing(self) -> Callable[[Batch, jax.Array], Batch]:
        return DetectionPreprocessing(self.normalisation, self.config.seed)

    def evaluate_batches(self, model: PyramidDetector, batches: Iterator[HostBatch]) -> DetectionEvaluation:
        model.canvases_filled = self.evaluation_row()[0].fills_canvas
        return evaluate(model, batches, self.held_out, self.category_ids, self.broken, self.normalisation, self.devices)

    def evaluate_program(self, detect: Detect) -> DetectionEvaluation:
        """Evaluate an exported program on every held-out image once, in a single process; raises what `evaluate` does.

        Raises:
          UserError: there are several processes.
        """
        refuse_several_processes()
        return self.evaluate_with(
            lambda batches: evaluate_program(
                detect, batches, self.held_out, self.category_ids, self.broken, self.normalisation
            )
        )

    def inference(self, model: PyramidDetector, batch: HostBatch) -> Callable[[], Any]:
        model.canvases_filled = self.evaluation_row()[0].fills_canvas
        one = Devices.first_of_this_process()
        detect, on_device = compiled_detect(model, self.normalisation, one), one.put_batch(detector_fields(batch))
        return lambda: detect(on_device)

    def backbone_of(self, model: PyramidDetector) -> Network:
        return model.backbone

    def save(self, path: Path, model: PyramidDetector, metadata: Mapping[str, Any]) -> None:
        classes = Classes(self.train_images.class_names, self.train_images.category_ids)
        usage = self.config.data.preparation.to_json()
        save_detector(path, model, classes, metadata={**metadata, KEY: usage}, overwrite=True)

    def figures(self, evaluation: DetectionEvaluation) -> dict[str, Any]:
        return {**evaluation.recorded, "truncated": evaluation.truncated}

    def cost(self, model: PyramidDetector, form: Form) -> dict[str, int]:
        cost = cost_of(model, *self.config.data.canvas, form)["total"]
        return {"multiply_adds": cost.multiply_adds, "params": cost.params}

    def write_results(self, workdir: Path, evaluations: Mapping[str, DetectionEvaluation]) -> dict[str, Any]:
        """Write detections.json, in COCO's results format, detections.png, which shows some, and precision.json."""
        *_, last = evaluations.values()
        write_results(workdir / DETECTIONS, last.results)
        write_precision(workdir / PRECISION_FILE, last.precision)
        write_examples(workdir / EXAMPLES, self.held_out, last.results)
        return {}


def source_of(config: DetectionConfig, split: Split) -> DetectionSource:
    """Open the annotated images of one split; UserError if they are missing."""
    data = config.data
    return open_source(
        data.source,
        directory=data.directory,
        split=split,
        annotations=data.train_annotations if split == "train" else data.val_annotations,
        upright=data.exif_orientation,
        keep_empty=data.empty_images == "keep",
        shapes=data.shapes_images,
    )


def detection_loss(model: PyramidDetector, batch: Batch) -> tuple[jax.Array, Metrics]:
    """Return (sum of the detector's losses, each loss by name and the sum as "loss") of a batch made by
    `DetectionPreprocessing`."""
    targets = Targets(batch["boxes"], batch["labels"], batch["valid"])
    losses = model.losses(batch["image"], batch["size"], targets, batch["key"][0])
    loss = jnp.stack(list(losses.values())).sum()
    return loss, {"loss": loss, **losses}


@dataclasses.dataclass(frozen=True)
class DetectionPreprocessing:
    """Preprocessing of host batches for `detection_loss`: a pure function of seed, step and batch."""

    normalisation: Normalisation
    seed: int

    def __call__(self, batch: Batch, step: jax.Array) -> Batch:
        """Normalise "image" to float32, zero it beyond "size", and add random keys as "key"; the rest is unchanged."""
        # One key per image, so that a batch can be split into micro-batches; each uses its first key.
        keys = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), step), len(batch["image"]))
        return {**batch, "image": canvas_images(batch["image"], batch["size"], self.normalisation), "key": keys}
