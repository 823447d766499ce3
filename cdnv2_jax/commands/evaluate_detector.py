"""`main.py eval` for detectors."""

import csv
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cdnv2_jax.detection.checkpoint import load_detector
from cdnv2_jax.detection.coco_evaluation import FIGURES, write_results
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.cost import cost_of
from cdnv2_jax.detection.held_out import HeldOutDetection
from cdnv2_jax.detection.published import published_map
from cdnv2_jax.devices import Devices, is_first_process
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import replacing


def evaluate_detector(
    spec: str, config: DetectionConfig, checkpoint: Path, *, output: Path | None, per_class: Path | None
) -> None:
    """Prints COCO's twelve figures and the cost; the published mAP beside them where there is one."""
    held_out = HeldOutDetection(config, Devices.all())
    detector, classes = load_detector(checkpoint)
    found = f"{detector.settings.kind} on {detector.backbone.name}"
    wanted = f"{config.model.detector} on {config.model.backbone}"
    if found != wanted:
        raise UserError(f"{checkpoint} holds a {found}, {spec} is for a {wanted}")
    if list(classes.category_ids) != [int(i) for i in held_out.source.category_ids]:
        raise UserError(
            f"{checkpoint} tells other classes apart ({', '.join(classes.names[:3])}, …) than "
            f"{config.data.directory or config.data.source} has"
        )
    judgement = held_out.evaluate(detector)
    if not is_first_process():
        return
    console = Console()
    table = Table(title=f"{found}, {len(held_out.source):,} images of {config.data.source}")
    for half in ("average precision", "", "average recall", ""):
        table.add_column(half, justify="right" if not half else "left")
    for precision, recall in zip(FIGURES[:6], FIGURES[6:], strict=True):
        table.add_row(*(cell for name in (precision, recall) for cell in (name, f"{judgement.figures[name]:.3f}")))
    console.print(table)
    if broken := held_out.broken.found:
        console.print(f"left out, unreadable: {', '.join(broken.values())}")
    if judgement.truncated:
        console.print(f"on {judgement.truncated} images a limit on candidates could have changed the result")
    (height, width), cost = config.data.canvas, cost_of(detector, *config.data.canvas)["total"]
    console.print(f"{cost.multiply_adds:,} multiply-adds for {width} × {height} pixels, {cost.params:,} parameters")
    published = published_map(config.model.detector, config.model.backbone)
    if config.data.source != "shapes" and published is not None:
        console.print(f"published COCO mAP: {published}% (CondenseNetV2 paper)")
    if output is not None:
        write_results(output, judgement.results)
    if per_class is not None:
        with replacing(per_class) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("class", "AP"), *judgement.per_class])
