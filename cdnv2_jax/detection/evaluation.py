"""Evaluation of a detector on annotated images: detections, and COCO's metrics computed by `pycocotools`."""

import contextlib
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from cdnv2_jax.data.batches import BrokenImages, HostBatch
from cdnv2_jax.data.on_device import Normalisation
from cdnv2_jax.detection.data.annotations import DetectionSource, Id
from cdnv2_jax.detectors.detector import Detections, PyramidDetector
from cdnv2_jax.devices import Devices, fetch
from cdnv2_jax.errors import UserError, import_optional
from cdnv2_jax.files import replacing
from cdnv2_jax.layers.dense_kernels import with_dense_kernels
from cdnv2_jax.layers.lowering import full_precision
from cdnv2_jax.report.precision import ClassPrecision, Precision
from cdnv2_jax.training.experiment import Evaluation
from cdnv2_jax.weights.detector_programs import Detect, Found


@dataclasses.dataclass(frozen=True)
class DetectionEvaluation(Evaluation):
    """COCO's metrics of a detector, and the detections.

    Attributes:
      metrics: COCO's twelve metrics by name, in [0, 1], or −1 if there is no such ground truth; empty without any.
      precision: precision over recall and by class; empty without ground truth.
      results: the detections, in COCO's results format.
      truncated: number of images whose result a limit on candidates could have changed.
    """

    precision: Precision
    results: list[dict[str, Any]]
    truncated: int

    score_name = "AP"

    @property
    def headline(self) -> str:
        return f"AP {self.metrics['AP']:.3f}, AP50 {self.metrics['AP50']:.3f}{self.warning}"


def evaluate(
    model: PyramidDetector,
    batches: Iterable[HostBatch],
    source: DetectionSource,
    category_ids: Sequence[Id | None],
    broken: BrokenImages,
    normalisation: Normalisation,
    devices: Devices,
) -> DetectionEvaluation:
    """Compute COCO's metrics of a detector in evaluation mode; all processes get the same.

    Args:
      model: the detector.
      batches: this process's rows, as `DetectionEvaluationRow` makes them; rows that are not real do not count.
      source: the images, with their annotations.
      category_ids: for each label of the detector, the id of that class in `source`, or None: such detections are left
        out.
      broken: images that could not be read; they do not count either.
      normalisation: normalisation of the images, computed on the devices.
      devices: devices that the batches are sharded over.
    """
    detect = compiled_detect(model, normalisation, devices)
    found = (fetch(detect(devices.put_batch(detector_fields(rows)))) for rows in batches)
    return _evaluated(((vars(each), batch) for each, batch in found), source, category_ids, broken)


def evaluate_program(
    detect: Detect,
    batches: Iterable[HostBatch],
    source: DetectionSource,
    category_ids: Sequence[Id | None],
    broken: BrokenImages,
    normalisation: Normalisation,
) -> DetectionEvaluation:
    """Compute COCO's metrics of an exported program, in this process alone; otherwise as `evaluate`.

    It does not tell for which images a limit on candidates may have changed the result: `truncated` is 0.
    """

    def found_in(rows: HostBatch) -> tuple[HostBatch, HostBatch]:
        images = canvas_images(jnp.asarray(rows["image"]), jnp.asarray(rows["size"]), normalisation)
        found = _padded(detect(np.asarray(images), rows["size"]))
        if not np.isin(found["labels"], np.arange(len(category_ids))).all():
            raise UserError(f"the program finds classes other than its own {len(category_ids)}: export it again")
        return found, rows

    return _evaluated(map(found_in, batches), source, category_ids, broken)


def _padded(found: Sequence[Found]) -> HostBatch:
    """Return the fields of `Detections` for a batch; they are finite, see `Detect`."""
    most = max(len(one.scores) for one in found)
    padded = {
        name: np.stack([np.resize(getattr(one, name), (most, *getattr(one, name).shape[1:])) for one in found])
        for name in ("boxes", "scores", "labels")
    }
    valid = np.array([np.arange(most) < len(one.scores) for one in found])
    no = np.zeros(len(found), bool)
    return {**padded, "valid": valid, "truncated": no, "finite": ~no}


def _evaluated(
    batches: Iterable[tuple[HostBatch, HostBatch]],
    source: DetectionSource,
    category_ids: Sequence[Id | None],
    broken: BrokenImages,
) -> DetectionEvaluation:
    """Score the real rows of all batches: fields of `Detections`, and the rows that they belong to."""
    results, truncated, not_finite, image_ids = [], 0, 0, source.image_ids
    for found, batch in batches:
        truncated += int((found["truncated"] & batch["real"]).sum())
        not_finite += int((~found["finite"] & batch["real"]).sum())
        results += detections_to_results(
            found["boxes"],
            found["scores"],
            found["labels"],
            found["valid"] & batch["real"][:, None],
            batch["scale"],
            [image_ids[index] for index in batch["index"]],
            category_ids,
        )
    if not source.is_annotated:
        return DetectionEvaluation({}, Precision(), results, truncated, not_finite=not_finite)
    truth = source.annotations()
    looked_at = [image["id"] for n, image in enumerate(truth["images"]) if n not in broken.found]
    score = coco_score(truth, results, looked_at)
    return DetectionEvaluation(score.figures, score.precision, results, truncated, not_finite=not_finite)


def detector_fields(batch: HostBatch) -> HostBatch:
    """Return the fields of an evaluation batch that `compiled_detect` takes."""
    return {name: batch[name] for name in ("image", "size", "scale", "index", "real")}


def compiled_detect(
    model: PyramidDetector, normalisation: Normalisation, devices: Devices
) -> Callable[[dict[str, jax.Array]], tuple[Detections, dict[str, jax.Array]]]:
    """Return a detector with its current weights as a compiled function of a batch on `devices`, which returns the
    detections and the batch's fields that the host needs."""
    graph, state = nnx.split(with_dense_kernels(model))
    return partial(_detected, graph, normalisation, devices.everywhere, devices.replicate(state))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _detected(
    graph: nnx.GraphDef,
    normalisation: Normalisation,
    everywhere: NamedSharding,
    state: nnx.State,
    batch: dict[str, jax.Array],
) -> tuple[Detections, dict[str, jax.Array]]:
    images = canvas_images(batch["image"], batch["size"], normalisation)
    model = nnx.merge(graph, state)
    with full_precision(model):
        found = model.detect(images, batch["size"])
    rest = {name: batch[name] for name in ("scale", "index", "real")}
    # Replicated, because every process needs all rows for the metrics.
    return jax.lax.with_sharding_constraint((found, rest), everywhere)


def canvas_images(images: jax.Array, sizes: jax.Array, normalisation: Normalisation) -> jax.Array:
    """Normalise uint8 [b, h, w, 3] to float32, then zero each image beyond its `sizes`, int [b, 2]: height, width."""
    rows = jnp.arange(images.shape[1])[None, :, None, None] < sizes[:, 0, None, None, None]
    columns = jnp.arange(images.shape[2])[None, None, :, None] < sizes[:, 1, None, None, None]
    return jnp.where(rows & columns, normalisation(images), 0)


FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""Average precision (over IoU .50 to .95, at .50, at .75; of small, medium and large objects) and average recall (with
1, 10 and 100 detections per image; of small, medium and large objects), in the order of COCOeval's summary."""

NONE = -1.0
"""Value of a metric without ground truth."""

Result = dict[str, Any]
"""One detection in COCO's results format: image_id, category_id, bbox (x, y, width, height), score."""


@dataclasses.dataclass(frozen=True)
class CocoScore:
    """Result of COCO's evaluation.

    Attributes:
      figures: the metrics in `FIGURES`, by name.
      precision: precision over recall and by class.
    """

    figures: dict[str, float]
    precision: Precision


def coco_score(annotations: Mapping[str, Any], results: Sequence[Result], image_ids: Iterable[Id]) -> CocoScore:
    """Score box detections.

    Args:
      annotations: the ground truth: "images", "annotations", "categories". It is not modified; `iscrowd` defaults to 0
        and `area` to the area of the box.
      results: detections in any order; may be empty.
      image_ids: the images that were evaluated, including those without detections; no others count.

    Returns:
      metrics in [0, 1], or −1 if there is no such ground truth, as in `pycocotools`.

    Raises:
      UserError: `pycocotools` is not installed, or a result refers to an unknown image or category.
    """
    COCO = import_optional("pycocotools.coco", "detection").COCO
    COCOeval = import_optional("pycocotools.cocoeval", "detection").COCOeval
    images = _positions(annotations["images"])
    categories = _positions(sorted(annotations["categories"], key=lambda one: (isinstance(one["id"], str), one["id"])))
    looked_at = list(dict.fromkeys(image_ids))
    _refuse_unknown(results, looked_at, images, categories)
    both: tuple[Any, Any] = COCO(), COCO()
    with contextlib.redirect_stdout(io.StringIO()):  # COCO and COCOeval print every step
        truth, found = _truth(annotations["annotations"]), _found(results)
        for each, items in zip(both, (truth, found), strict=True):
            for item in items:  # by position, because pycocotools sorts ids and cannot mix numbers and text
                item |= {"image_id": images[item["image_id"]], "category_id": categories[item["category_id"]]}
            each.dataset = {"images": _numbered(images), "categories": _numbered(categories), "annotations": items}
            each.createIndex()
        evaluation = COCOeval(*both, "bbox")
        evaluation.params.imgIds = sorted(images[one] for one in looked_at)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = {name: float(value) for name, value in zip(FIGURES, evaluation.stats, strict=True)}
    names = {categories[item["id"]]: str(item["name"]) for item in annotations["categories"]}
    return CocoScore(figures, _precision(names, evaluation))


def detections_to_results(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    valid: np.ndarray,
    scale: np.ndarray,
    image_ids: Sequence[Id],
    category_ids: Sequence[Id | None],
) -> list[Result]:
    """Convert a batch of detections to COCO's results format, in pixels of the original images.

    Args:
      boxes: [b, n, 4], x1, y1, x2, y2 in pixels of the resized images.
      scores: [b, n].
      labels: [b, n], from 0.
      valid: bool [b, n]; False in rows that are not real images, too.
      scale: [b, 2], factors by which x and y of the original images were multiplied.
      image_ids: [b].
      category_ids: label → category id, or None for a class whose detections are left out.
    """
    corners = np.asarray(boxes, np.float64) / np.tile(np.asarray(scale, np.float64), 2)[:, None]
    extents = np.concatenate([corners[..., :2], corners[..., 2:] - corners[..., :2]], axis=-1)
    rows, columns = np.nonzero(np.asarray(valid))
    found = (rows, np.asarray(labels)[rows, columns], extents[rows, columns], np.asarray(scores, float)[rows, columns])
    return [
        {"image_id": image_ids[row], "category_id": category, "bbox": box, "score": score}
        for row, label, box, score in zip(*(column.tolist() for column in found), strict=True)
        if (category := category_ids[label]) is not None
    ]


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write the JSON file that COCO's evaluation server takes, atomically; UserError if that fails."""
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(list(results), allow_nan=False) + "\n", encoding="utf-8")


def _positions(items: Sequence[Mapping[str, Any]]) -> dict[Id, int]:
    return {item["id"]: position for position, item in enumerate(items)}


def _numbered(positions: Mapping[Id, int]) -> list[dict[str, int]]:
    return [{"id": position} for position in positions.values()]


def _refuse_unknown(
    results: Sequence[Result], image_ids: Iterable[Id], images: Mapping[Id, int], categories: Mapping[Id, int]
) -> None:
    """Raise UserError for unknown images and categories, which COCOeval would silently ignore."""
    asked = [*(result["image_id"] for result in results), *image_ids]
    strange = next((one for one in asked if one not in images), None)
    if strange is not None:
        raise UserError(f"results refer to image {strange}, which the annotations lack: evaluate the same split")
    strange = next((one["category_id"] for one in results if one["category_id"] not in categories), None)
    if strange is not None:
        raise UserError(f"results refer to category {strange}, which the annotations lack: evaluate the same classes")


def _truth(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copy annotations and number them from 1, because COCOeval takes a match with id 0 for no match."""
    return [
        {
            "id": number,
            "image_id": item["image_id"],
            "category_id": item["category_id"],
            "bbox": item["bbox"],
            "area": item.get("area", item["bbox"][2] * item["bbox"][3]),
            "iscrowd": int(item.get("iscrowd", 0)),
        }
        for number, item in enumerate(items, 1)
    ]


def _found(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Convert results as `COCO.loadRes` does, which fails on an empty list."""
    return [
        {**result, "id": number, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
        for number, result in enumerate(results, 1)
    ]


def _precision(names: Mapping[int, str], evaluation: Any) -> Precision:
    found = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class]; all sizes, 100 detections
    thresholds = {"0.50:0.95": slice(None), "0.50": slice(0, 1), "0.75": slice(5, 6)}
    of_each = {name: found[chosen].mean(0) for name, chosen in thresholds.items()}
    has_objects = found[0, 0] > NONE
    curves = {name: values[:, has_objects].mean(1).tolist() for name, values in of_each.items() if has_objects.any()}
    averages = zip(*(values.mean(0).tolist() for values in of_each.values()), strict=True)
    looked_at, objects = set(evaluation.params.imgIds), Counter()
    for one in evaluation.cocoGt.dataset["annotations"]:
        objects[one["category_id"]] += one["image_id"] in looked_at and not one["iscrowd"]
    return Precision(
        curves,
        [
            ClassPrecision(names[int(number)], objects[number], *values)
            for number, values in zip(evaluation.params.catIds, averages, strict=True)
        ],
    )
