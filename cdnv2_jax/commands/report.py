"""`main.py report`."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax.classification.config import ClassificationConfig, DataConfig
from cdnv2_jax.classification.experiment import source_of
from cdnv2_jax.commands.read_config import check_config
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.data.sources import open_source
from cdnv2_jax.detection.pictures import example_pictures
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.files import refuse_existing
from cdnv2_jax.layers.cost import Cost
from cdnv2_jax.networks.family import count_flops, model_entry, network_cost
from cdnv2_jax.networks.network import Form, Network
from cdnv2_jax.report.connection_plots import connections_section
from cdnv2_jax.report.connections import learned_layers
from cdnv2_jax.report.detections import detections_section, detections_sheet
from cdnv2_jax.report.figures import config_section, figures_section
from cdnv2_jax.report.learning import Record, learning_section, of_kind, plot_run
from cdnv2_jax.report.mistakes import mistakes_section, read_predictions
from cdnv2_jax.report.page import Section, render_page, write_page
from cdnv2_jax.report.published import (
    NAMES,
    PUBLISHED,
    SOURCE,
    backbone_points,
    classifier_points,
    data_set_of_published,
    published_data_set,
    published_section,
)
from cdnv2_jax.schema import flat_fields
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.training.records import read_metrics
from cdnv2_jax.training.workdir import (
    BEST,
    CONFIG_FILE,
    DETECTIONS,
    EXAMPLES,
    METRICS_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
)
from cdnv2_jax.weights.checkpoint import is_checkpoint
from cdnv2_jax.weights.open import OpenedDetector, open_weights
from cdnv2_jax.weights.torch_file import Weights

Picture = Callable[[int], np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class Examples:
    """A classifier's held-out images.

    Attributes:
      names: of the classes.
      count: of the images; None where they are not at hand.
      picture: position → pixels, uint8 [h, w, 3], or None for an image that cannot be read; None likewise.
      notes: why there are none.
    """

    names: Sequence[str]
    count: int | None = None
    picture: Picture | None = None
    notes: Sequence[str] = ()


def classifier_examples(config: ClassificationConfig) -> Examples:
    """The held-out images of a config; without their data, classes by number and a note."""
    try:
        source = source_of(config, "val")
    except UserError as error:
        return Examples([f"class {label}" for label in range(config.model.num_classes)], notes=[_missing(error)])

    def picture(index: int) -> np.ndarray | None:
        try:
            return source[index].pixels()
        except (UserError, OSError):
            return None

    return Examples(source.class_names, len(source), picture)


def detector_pictures(config: DetectionConfig, results: Sequence[dict[str, Any]]) -> tuple[list[np.ndarray], list[str]]:
    """Images with what was found on them, and notes; without their data a note alone.

    Raises:
      KeyError, TypeError, ValueError, …: results that are none.
    """
    data = config.data
    try:
        source = open_source(data.source, directory=data.directory, split="val", shapes=data.shapes_images)
    except UserError as error:
        return [], [_missing(error)]
    return example_pictures(source, results), []


def _missing(error: UserError) -> str:
    return f"The held-out images are not at hand: {error}"


NETWORKS = ("masked", "condensed", "plain", BEST)
"""Where a run's network may be, the one to look at first; masked and condensed have the same connections."""

FORMS = ("condensed", "masked", "plain")
"""Whose figures are the run's, the first that there is."""


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """What a run has left so far.

    Attributes:
      workdir: its directory.
      records: of its metrics.
      summary: empty before its end.
      values: the fields of its config file; empty without one.
      config: the same, checked; None without one.
      network: the trained one (of a detector the backbone) or the best so far; None if there is none yet.
    """

    workdir: Path
    records: list[Record]
    summary: Mapping[str, Any]
    values: Mapping[str, Any]
    config: RunConfig | None
    network: Network | None

    def own_figure(self, name: str) -> float | None:
        """A figure of the summary's; None before there is any."""
        with telling_of_damage(self.workdir / SUMMARY_FILE):
            return next((float(self.summary[form][name]) for form in FORMS if form in self.summary), None)


def read_run(workdir: Path) -> RunFiles:
    """Reads them; UserError when there is no run, or a file is damaged."""
    if not (workdir / METRICS_FILE).is_file():
        raise UserError(f"--workdir {workdir} holds no run: there is no {METRICS_FILE} in it")
    with telling_of_damage(workdir / METRICS_FILE):
        records = read_metrics(workdir)
    values, config = _read_object(workdir / CONFIG_FILE), None
    if values:
        with telling_of_damage(workdir / CONFIG_FILE):
            config = check_config(values)
    network = next((read_network(workdir / name) for name in NETWORKS if is_checkpoint(workdir / name)), None)
    return RunFiles(workdir, records, _read_object(workdir / SUMMARY_FILE), values, config, network)


def _read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty without the file."""
    if not file.is_file():
        return {}
    with telling_of_damage(file):
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    return found


@contextmanager
def telling_of_damage(file: Path) -> Iterator[None]:
    """A UserError that names the file for whatever its contents trip."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{file} cannot be drawn: {one_line(error)}") from error


ERROR, PRECISION = "top-1 error, %", "mAP, %"


def report_network(
    checkpoint: Path,
    output: Path,
    *,
    model: str | None,
    weights: Weights,
    num_classes: int | None,
    overwrite: bool,
) -> None:
    """Writes a page of a network that need not come from a run: ours or official, masked, condensed or plain.

    Raises:
      UserError: no such checkpoint, a damaged one, or `output` exists.
    """
    refuse_existing(output, overwrite, file=True)
    opened = open_weights(checkpoint, model=model, weights=weights, num_classes=num_classes)
    if isinstance(opened, OpenedDetector):
        network = opened.detector.backbone
        size = model_entry(network.name).image_size
    else:
        network, size = opened.network, opened.usage.preparation.size
    cost = count_flops(network, size)
    sections = [
        figures_section(
            {network.form_name: _cost_figures(cost)},
            [f"Cost of one image of {size} × {size} pixels, without any accuracy."],
        )
    ]
    if learned_layers(network):
        sections.append(connections_section(network))
    data_set = data_set_of_published(network.name, network.architecture)
    if data_set is not None:
        sections.append(_published(data_set, cost, None))
    page = render_page(f"{network.name} ({network.form_name})", f"Network in {checkpoint}", sections)
    print(write_page(output, page))


def read_network(path: Path) -> Network:
    """A classifier, or the backbone of a detector."""
    opened = open_weights(path)
    return opened.detector.backbone if isinstance(opened, OpenedDetector) else opened.network


def classifier_published(network: Network, data: DataConfig, error: float | None) -> list[Section]:
    """Published networks on the data that a classifier was trained on; nothing for other data.

    Args:
      error: its top-1 error in per cent; None where it was not measured.
    """
    data_set = published_data_set(data.source, network.architecture.num_classes)
    return [] if data_set is None else [_published(data_set, count_flops(network, data.image_size), error)]


def detector_published(config: DetectionConfig, precision: float | None) -> list[Section]:
    """Published backbones of such a detector on COCO; nothing for other data.

    Args:
      precision: of the detector, mAP in per cent; None where it was not measured.
    """
    published: Mapping[str, float] = PUBLISHED.get(config.model.detector, {})
    if config.data.source == "shapes" or not published:
        return []
    entry = model_entry(config.model.backbone)
    backbone = entry.architecture.override(config.model.overrides)
    cost = network_cost(backbone, Form(), entry.image_size, entry.image_size)
    points = backbone_points(published, SOURCE)
    own = (cost.flops / 1e6, precision)
    return [published_section(points, where=f"COCO ({config.model.detector})", figure_name=PRECISION, own=own)]


def _published(data_set: str, cost: Cost, error: float | None) -> Section:
    own = (cost.flops / 1e6, error)
    return published_section(classifier_points(data_set), where=NAMES[data_set], figure_name=ERROR, own=own)


def _cost_figures(cost: Cost) -> dict[str, Any]:
    return {"flops": cost.flops, "multiply_adds": cost.multiply_adds, "params": cost.params}


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
        kinds = [] if run.network is None else [kind for kind, _ in learned_layers(run.network)]
        sections.append(learning_section(run.records, kinds))
    if run.network is not None and kinds:
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
