"""The held-out images of a detection experiment, and a detector's COCO metrics on them."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.sharding import NamedSharding

from cdnv2_jax.data.batches import Share
from cdnv2_jax.data.on_device import Normalisation
from cdnv2_jax.data.pipeline import BrokenImages, HostBatch, host_batches
from cdnv2_jax.detection.coco_evaluation import coco_score, detections_to_results
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.data.batches import DetectionEvaluationRow
from cdnv2_jax.detection.data.sources import open_source
from cdnv2_jax.detection.detector import Detections, PyramidDetector
from cdnv2_jax.detection.objective import canvas_images
from cdnv2_jax.devices import Devices, fetch
from cdnv2_jax.report.figures import median_milliseconds, milliseconds_per_call


@dataclasses.dataclass(frozen=True)
class DetectionJudgement:
    """What a detector found on a data set.

    Attributes:
      figures: COCO's twelve, by name, in [0, 1] (−1 where there is nothing to find). per_class: (name, AP) of each.
      results: the detections, as COCO's results files have them. truncated: images whose result a limit on candidates
        could have changed.
    """

    figures: Mapping[str, float]
    per_class: list[tuple[str, float]]
    results: list[dict[str, Any]]
    truncated: int

    score_name = "AP"

    @property
    def score(self) -> float:
        """By which detectors are compared."""
        return self.figures["AP"]

    @property
    def headline(self) -> str:
        """The first figures in a few words."""
        return f"AP {self.figures['AP']:.3f}, AP50 {self.figures['AP50']:.3f}"


class HeldOutDetection:
    """What a detector is evaluated on, every image once.

    Attributes:
      source: the images. broken: those of them that cannot be read; nothing is found on them.
    """

    def __init__(self, config: DetectionConfig, devices: Devices):
        self._config, self._devices = config, devices
        data = config.data
        self.source = open_source(data.source, directory=data.directory, split="val", shapes=data.shapes_images)
        batch_size = -(-data.eval_batch_size // devices.count) * devices.count
        share = Share(batch_size, jax.process_index(), jax.process_count())
        self.row = DetectionEvaluationRow(self.source, share, data.preparation)
        self.broken = BrokenImages(self.source, data.max_broken_images)
        self._normalisation = Normalisation(data.mean, data.std)

    def evaluate(self, model: PyramidDetector) -> DetectionJudgement:
        """COCO's figures of a detector in evaluation mode, the same on every process.

        Raises:
          UserError: more images than `config.data.max_broken_images` cannot be read.
        """
        detecting = self._detecting(model, self._devices)
        results, truncated = [], 0
        with host_batches(self.row, 0, self.row.batches, self._config.data.workers) as batches:
            for _ in range(self.row.batches):
                found, batch = fetch(detecting(_put(self._checked(next(batches)), self._devices)))
                truncated += int((found.truncated & batch["real"]).sum())
                results += detections_to_results(
                    found.boxes,
                    found.scores,
                    found.labels,
                    found.valid & batch["real"][:, None],
                    batch["scale"],
                    batch["image_id"],
                    self.source.category_ids,
                )
        truth = self.source.annotations()
        looked_at = [image["id"] for n, image in enumerate(truth["images"]) if n not in self.broken.found]
        score = coco_score(truth, results, looked_at)
        return DetectionJudgement(score.figures, score.per_class, results, truncated)

    def milliseconds_per_image(self, detectors: Mapping[str, PyramidDetector]) -> dict[str, float]:
        """Median time of detecting, by name, on this process's rows of the first batch; on one device of its own."""
        one = Devices.first_of_this_process()
        with host_batches(self.row, 0, 1, 0) as batches:
            batch = _put(next(batches), one)
        calls = {name: partial(self._detecting(detector, one), batch) for name, detector in detectors.items()}
        return median_milliseconds(milliseconds_per_call(calls), images=len(batch["image"]))

    def _detecting(
        self, detector: PyramidDetector, devices: Devices
    ) -> Callable[[dict[str, jax.Array]], tuple[Detections, Any]]:
        """A detector as it is now, as a compiled function of a batch."""
        detector.canvases_filled = self.row.fills_canvas
        graph, state = nnx.split(detector)
        return partial(_found, graph, self._normalisation, devices.everywhere, devices.replicate(state))

    def _checked(self, batch: HostBatch) -> HostBatch:
        self.broken.check(batch)
        return batch


def _put(rows: HostBatch, devices: Devices) -> dict[str, jax.Array]:
    return devices.put_batch({name: rows[name] for name in ("image", "size", "scale", "image_id", "real")})


@partial(jax.jit, static_argnums=(0, 1, 2))
def _found(
    graph: nnx.GraphDef,
    normalisation: Normalisation,
    everywhere: NamedSharding,
    state: nnx.State,
    batch: dict[str, jax.Array],
) -> tuple[Detections, dict[str, jax.Array]]:
    """The detections, and what else the host needs of the batch; whole, as every process needs the others' rows."""
    images = canvas_images(batch["image"], batch["size"], normalisation)
    found = nnx.merge(graph, state).detect(images, batch["size"])
    rest = {name: batch[name] for name in ("scale", "image_id", "real")}
    return jax.lax.with_sharding_constraint((found, rest), everywhere)
