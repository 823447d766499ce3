"""`main.py report --workdir DIR`."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.finish import PREDICTIONS_FILE
from cdnv2_jax.commands.report_data import classifier_examples, detector_pictures
from cdnv2_jax.commands.report_files import RunFiles, read_run, telling_of_damage
from cdnv2_jax.commands.report_network import classifier_published, detector_published
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.finish import DETECTIONS, EXAMPLES
from cdnv2_jax.errors import UserError
from cdnv2_jax.models.condensenet import CondenseNet
from cdnv2_jax.report.detections import detections_sheet
from cdnv2_jax.report.page import Section, render_page, write_page
from cdnv2_jax.report.plots import of_kind, plot_run
from cdnv2_jax.report.predictions_file import read_predictions
from cdnv2_jax.report.sections.config import config_section
from cdnv2_jax.report.sections.connections import connections_section
from cdnv2_jax.report.sections.detections import detections_section
from cdnv2_jax.report.sections.figures import figures_section
from cdnv2_jax.report.sections.learning import learning_section
from cdnv2_jax.report.sections.mistakes import mistakes_section
from cdnv2_jax.training.parse_config import flat_fields
from cdnv2_jax.training.progress import METRICS_FILE, REPORT_FILE, SUMMARY_FILE


def report(workdir: Path) -> None:
    """Draws what a run's files tell, also while it goes on: plots, of a detector examples, and one page of it all.

    Everything is read before anything is written.

    Raises:
      UserError: there is no run, or one of its files is damaged.
    """
    run = read_run(workdir)
    pictures, notes = _pictures(run)
    page = render_page(_title(run), f"Run in {workdir}", _sections(run, pictures, notes))
    with telling_of_damage(workdir / METRICS_FILE):
        paths = plot_run(run.records, workdir)
    if pictures:
        paths.append(detections_sheet(pictures, workdir / EXAMPLES))
    paths.append(write_page(workdir / REPORT_FILE, page))
    print("\n".join(map(str, paths)))


def _title(run: RunFiles) -> str:
    config = run.config
    if isinstance(config, ClassificationConfig):
        return f"{config.model.name} on {config.data.source}"
    if isinstance(config, DetectionConfig):
        return f"{config.model.detector} on {config.model.backbone}, {config.data.source}"
    return run.workdir.resolve().name


def _pictures(run: RunFiles) -> tuple[list[np.ndarray], list[str]]:
    """Of a detector that was judged, examples; notes on what keeps them from being there."""
    file = run.workdir / DETECTIONS
    if not isinstance(run.config, DetectionConfig) or not file.is_file():
        return [], []
    with telling_of_damage(file):
        return detector_pictures(run.config, json.loads(file.read_text(encoding="utf-8")))


def _sections(run: RunFiles, pictures: list[np.ndarray], notes: list[str]) -> list[Section]:
    with telling_of_damage(run.workdir / (SUMMARY_FILE if run.summary else METRICS_FILE)):
        sections = [_figures(run)]
    with telling_of_damage(run.workdir / METRICS_FILE):
        sections.append(learning_section(run.records, _convs_per_layer(run.network)))
    if isinstance(run.network, CondenseNet):
        sections.append(connections_section(run.network))
    if isinstance(run.config, ClassificationConfig):
        sections += _of_classifier(run, run.config)
    elif isinstance(run.config, DetectionConfig):
        precision = run.own_figure("AP")
        sections += detector_published(run.config, None if precision is None else 100 * precision)
    if pictures or notes:
        sections.append(detections_section(pictures, notes))
    if run.values:
        sections.append(config_section(flat_fields(run.values)))
    return sections


def _figures(run: RunFiles) -> Section:
    """Of the summary or, as long as there is none, of the latest evaluation."""
    step = max((record["step"] for record in run.records), default=0)
    if run.summary:
        return figures_section(run.summary, [f"The run has ended, after {step:,} steps."])
    judged = of_kind(run.records, "eval")
    figures = {k: v for k, v in judged[-1].items() if k not in ("kind", "step")} if judged else {}
    text = f"The run has not ended: {step:,} steps so far" + (", the latest evaluation below." if judged else ".")
    return figures_section({"held-out images": figures} if judged else {}, [text])


def _convs_per_layer(network: Any) -> int | None:
    if not isinstance(network, CondenseNet):
        return None
    return 1 if network.architecture.sfr_groups is None else 2


def _of_classifier(run: RunFiles, config: ClassificationConfig) -> list[Section]:
    """What is told of a classifier alone: its place among published ones, and its mistakes."""
    accuracy, file = run.own_figure("accuracy"), run.workdir / PREDICTIONS_FILE
    error = None if accuracy is None else 100 * (1 - accuracy)
    sections = [] if run.network is None else classifier_published(run.network, config.data, error)
    if file.is_file():
        predictions = read_predictions(file, config.model.num_classes)
        examples = classifier_examples(config)
        if examples.count is not None and predictions.images.max(initial=-1) >= examples.count:
            raise UserError(f"{file} is of more than the {examples.count} images of the data")
        sections.append(mistakes_section(predictions, examples.names, examples.picture, examples.notes))
    return sections
