"""The end of a run: condense the backbone, compare masked and condensed, write summary, detectors and pictures."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cdnv2_jax.detection.checkpoint import Classes, save_detector
from cdnv2_jax.detection.coco_evaluation import write_results
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.cost import cost_of
from cdnv2_jax.detection.data.canvas import KEY
from cdnv2_jax.detection.detector import PyramidDetector, condense_backbone
from cdnv2_jax.detection.evaluation import DetectionJudgement, HeldOutDetection
from cdnv2_jax.detection.pictures import write_examples
from cdnv2_jax.devices import is_first_process
from cdnv2_jax.pruning.prune import stages_passed
from cdnv2_jax.report.learning import PLOTS, plot_run
from cdnv2_jax.training.records import SUMMARY_FILE, read_metrics

EXAMPLES, DETECTIONS = "detections.png", "detections.json"
RESULTS = ("masked", "condensed", "plain", EXAMPLES, DETECTIONS, *PLOTS)


def finish(
    trained: PyramidDetector,
    live: PyramidDetector | None,
    config: DetectionConfig,
    held_out: HeldOutDetection,
    classes: Classes,
    workdir: Path,
    console: Console,
) -> dict[str, Any]:
    """Condenses the backbone of the trained detector, measures both, and leaves in `workdir`:

    masked/ and condensed/ (checkpoints), detections.json (of the condensed detector, in COCO's format for results),
    detections.png (some of them, drawn), the plots and, last, summary.json, which is also what is returned: {"masked":
    {COCO's twelve figures, "multiply_adds", "params", "ms_per_image", "truncated"}, "condensed": {the same},
    "stages_passed", with averaged weights "live": {the figures of those not averaged}}. A detector whose backbone was
    condensed before has no "masked"; one with nothing to condense has "plain" alone.

    Every process takes part in the evaluation; the first one measures and writes.
    """
    form = trained.backbone.form_name
    detectors = {form: trained}
    if form == "masked":
        detectors["condensed"] = condense_backbone(trained)
    judged = {name: held_out.evaluate(detector) for name, detector in detectors.items()}
    summary: dict[str, Any] = {name: _figures(judgement) for name, judgement in judged.items()}
    if live is not None:
        summary["live"] = dict(held_out.evaluate(live).figures)
    if not is_first_process():
        return summary
    milliseconds = held_out.milliseconds_per_image(detectors)
    for name, detector in detectors.items():
        cost = cost_of(detector, *config.data.canvas)["total"]
        summary[name] |= {"multiply_adds": cost.multiply_adds, "params": cost.params}
        summary[name] |= {"ms_per_image": milliseconds[name]}
        metadata = {"AP": judged[name].figures["AP"], KEY: config.data.preparation.to_json()}
        save_detector(workdir / name, detector, classes, metadata=metadata, overwrite=True)
    if form == "masked":
        summary["stages_passed"] = stages_passed(trained)
    *_, final = judged.values()
    write_results(workdir / DETECTIONS, final.results)
    write_examples(workdir / EXAMPLES, held_out.source, final.results)
    plot_run(read_metrics(workdir), workdir)
    (workdir / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    console.print(_table(summary))
    return summary


def _figures(judgement: DetectionJudgement) -> dict[str, Any]:
    return {**judgement.figures, "truncated": judgement.truncated}


def _table(summary: dict[str, Any]) -> Table:
    """Masked beside condensed, or that alone."""
    names = [name for name in ("masked", "condensed", "plain") if name in summary]
    table = Table(title="Detection on the held-out images")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for figure in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"):
        table.add_row(figure, *(f"{summary[name][figure]:.3f}" for name in names))
    table.add_row("multiply-adds per image", *(f"{summary[name]['multiply_adds']:,}" for name in names))
    table.add_row("parameters", *(f"{summary[name]['params']:,}" for name in names))
    table.add_row("ms per image", *(f"{summary[name]['ms_per_image']:.1f}" for name in names))
    return table
