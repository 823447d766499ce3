"""`main.py report --workdir DIR`."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax.checkpoint.arrays import is_checkpoint
from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.finish import PREDICTIONS_FILE
from cdnv2_jax.commands.report_data import Examples, classifier_examples, detector_pictures
from cdnv2_jax.commands.report_network import classifier_published, detector_published, read_network
from cdnv2_jax.commands.tasks import config_class
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.finish import DETECTIONS, EXAMPLES
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.files import replacing
from cdnv2_jax.models.condensenet import CondenseNet
from cdnv2_jax.report.detections import detections_sheet
from cdnv2_jax.report.page import Section, render_page
from cdnv2_jax.report.plots import Record, of_kind, plot_run
from cdnv2_jax.report.predictions_file import read_predictions
from cdnv2_jax.report.sections.config import config_section
from cdnv2_jax.report.sections.connections import connections_section
from cdnv2_jax.report.sections.detections import detections_section
from cdnv2_jax.report.sections.figures import figures_section
from cdnv2_jax.report.sections.learning import learning_section
from cdnv2_jax.report.sections.mistakes import mistakes_section
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.training.loop import BEST
from cdnv2_jax.training.parse_config import flat_fields, parse_config
from cdnv2_jax.training.progress import CONFIG_FILE, METRICS_FILE, REPORT_FILE, SUMMARY_FILE, read_metrics

NETWORKS = ("masked", "condensed", "plain", BEST)
"""Where a run's network may be, the one to look at first; masked and condensed have the same connections."""

FORMS = ("condensed", "masked", "plain")
"""Whose figures are the run's, the first that there is."""


def report(workdir: Path) -> None:
    """Draws what a run's files tell, also while it goes on: plots, of a detector examples, and one page of it all.

    Everything is read before anything is written.

    Raises:
      UserError: there is no run, or one of its files is damaged.
    """
    if not (workdir / METRICS_FILE).is_file():
        raise UserError(f"--workdir {workdir} holds no run: there is no {METRICS_FILE} in it")
    with _telling_of_damage(workdir / METRICS_FILE):
        records = read_metrics(workdir)
    summary, values = _read_object(workdir / SUMMARY_FILE), _read_object(workdir / CONFIG_FILE)
    config = None
    if values:
        with _telling_of_damage(workdir / CONFIG_FILE):
            config = parse_config(values, config_class(values))
            config.check()
    network = next((read_network(workdir / n) for n in NETWORKS if is_checkpoint(workdir / n)), None)
    pictures: list[np.ndarray] = []
    with _telling_of_damage(workdir / (SUMMARY_FILE if summary else METRICS_FILE)):
        sections = [_figures(records, summary)]
    with _telling_of_damage(workdir / METRICS_FILE):
        sections.append(learning_section(records, _convs_per_layer(network)))
    if isinstance(network, CondenseNet):
        sections.append(connections_section(network))
    if isinstance(config, ClassificationConfig):
        sections += _classifier_sections(workdir, config, network, summary)
    elif isinstance(config, DetectionConfig):
        pictures, found = _detector_sections(workdir, config, summary)
        sections += found
    if values:
        sections.append(config_section(flat_fields(values)))
    page = render_page(_title(config, workdir), f"Run in {workdir}", sections)
    with _telling_of_damage(workdir / METRICS_FILE):
        paths = plot_run(records, workdir)
    if pictures:
        paths.append(detections_sheet(pictures, workdir / EXAMPLES))
    with replacing(workdir / REPORT_FILE) as scratch:
        scratch.write_text(page, encoding="utf-8")
    print("\n".join(str(path) for path in [*paths, workdir / REPORT_FILE]))


def _title(config: RunConfig | None, workdir: Path) -> str:
    if isinstance(config, ClassificationConfig):
        return f"{config.model.name} on {config.data.source}"
    if isinstance(config, DetectionConfig):
        return f"{config.model.detector} on {config.model.backbone}, {config.data.source}"
    return workdir.resolve().name


def _figures(records: list[Record], summary: Mapping[str, Any]) -> Section:
    """Of the summary or, as long as there is none, of the latest evaluation."""
    step = max((record["step"] for record in records), default=0)
    if summary:
        return figures_section(summary, [f"The run has ended, after {step:,} steps."])
    judged = of_kind(records, "eval")
    figures = {k: v for k, v in judged[-1].items() if k not in ("kind", "step")} if judged else {}
    text = f"The run has not ended: {step:,} steps so far" + (", the latest evaluation below." if judged else ".")
    return figures_section({"held-out images": figures} if judged else {}, [text])


def _convs_per_layer(network: Any) -> int | None:
    if not isinstance(network, CondenseNet):
        return None
    return 1 if network.architecture.sfr_groups is None else 2


def _classifier_sections(
    workdir: Path, config: ClassificationConfig, network: Any, summary: Mapping[str, Any]
) -> list[Section]:
    accuracy = _own_figure(summary, "accuracy", workdir)
    error = None if accuracy is None else 100 * (1 - accuracy)
    sections = [] if network is None else classifier_published(network, config.data, error)
    if (workdir / PREDICTIONS_FILE).is_file():
        predictions = read_predictions(workdir / PREDICTIONS_FILE, config.model.num_classes)
        examples: Examples = classifier_examples(config)
        if examples.count is not None and predictions.images.max(initial=-1) >= examples.count:
            raise UserError(f"{workdir / PREDICTIONS_FILE} is of more than the {examples.count} images of the data")
        sections.append(mistakes_section(predictions, examples.names, examples.picture, examples.notes))
    return sections


def _detector_sections(
    workdir: Path, config: DetectionConfig, summary: Mapping[str, Any]
) -> tuple[list[np.ndarray], list[Section]]:
    """The example pictures, and all that is told of a detector alone."""
    precision = _own_figure(summary, "AP", workdir)
    sections = detector_published(config, None if precision is None else 100 * precision)
    if not (workdir / DETECTIONS).is_file():
        return [], sections
    with _telling_of_damage(workdir / DETECTIONS):
        results = json.loads((workdir / DETECTIONS).read_text(encoding="utf-8"))
        pictures, notes = detector_pictures(config, results)
    return pictures, [*sections, detections_section(pictures, notes)]


def _own_figure(summary: Mapping[str, Any], name: str, workdir: Path) -> float | None:
    with _telling_of_damage(workdir / SUMMARY_FILE):
        return next((float(summary[form][name]) for form in FORMS if form in summary), None)


def _read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty without the file."""
    if not file.is_file():
        return {}
    with _telling_of_damage(file):
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    return found


@contextmanager
def _telling_of_damage(file: Path) -> Iterator[None]:
    """A UserError that names the file for whatever its contents trip."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{file} cannot be drawn: {one_line(error)}") from error
