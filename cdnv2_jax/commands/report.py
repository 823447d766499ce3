"""The verb `report`: the plots and the HTML page of a run, or the page of a network."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax.bounded_reading import parse_json, read_bytes, read_json
from cdnv2_jax.classification.config import ClassificationConfig, DataConfig
from cdnv2_jax.classification.experiment import source_of
from cdnv2_jax.commands.arguments import print_chosen, print_taken
from cdnv2_jax.commands.read_config import check_config
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.data.annotations import DetectionSource
from cdnv2_jax.detection.data.coco_2017 import is_coco_val2017
from cdnv2_jax.detection.experiment import source_of as detection_source
from cdnv2_jax.detection.pictures import example_pictures
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.files import bytes_under, refuse_existing
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
from cdnv2_jax.report.precision import precision_section, read_precision
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
from cdnv2_jax.terminal import say
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.training.records import read_metrics
from cdnv2_jax.training.workdir import (
    CONFIG_FILE,
    DETECTIONS,
    EXAMPLES,
    METRICS_FILE,
    PRECISION_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    TO_SHOW,
    network_of_run,
)
from cdnv2_jax.weights.checkpoint import is_checkpoint
from cdnv2_jax.weights.open import OpenedDetector, open_weights
from cdnv2_jax.weights.state_dicts import Weights

Picture = Callable[[int], np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class Examples:
    """A classifier's held-out images.

    Attributes:
      names: class names.
      count: number of images; None if they are not available.
      picture: function from an index to pixels, uint8 [h, w, 3], or None if unreadable; None if not available.
      notes: why there are no images.
    """

    names: Sequence[str]
    count: int | None = None
    picture: Picture | None = None
    notes: Sequence[str] = ()


def classifier_examples(config: ClassificationConfig) -> Examples:
    """Return the held-out images of a config; without the data, numbered classes and a note."""
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


def detector_images(config: DetectionConfig) -> tuple[DetectionSource | None, list[str]]:
    """Return the held-out images of a config, and notes; without the data, None and a note."""
    try:
        return detection_source(config, "val"), []
    except UserError as error:
        return None, [_missing(error)]


def _missing(error: UserError) -> str:
    return f"The held-out images are not available: {error}"


FORMS = ("condensed", "masked", "plain")
"""Keys of the summary whose metrics are the run's, in order of preference."""


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The contents of a run's directory so far.

    Attributes:
      workdir: the directory.
      records: records of `metrics.jsonl`.
      summary: contents of `summary.json`; empty until the run ends.
      values: fields of `config.json`; empty without the file.
      config: `values`, checked; None without the file.
      network: the trained network (for a detector, its backbone) or the best so far; None if there is none yet.
    """

    workdir: Path
    records: list[Record]
    summary: Mapping[str, Any]
    values: Mapping[str, Any]
    config: RunConfig | None
    network: Network | None

    def own_figure(self, name: str) -> float | None:
        """Return a metric of the run from its summary; None while there is no summary."""
        with telling_of_damage(self.workdir / SUMMARY_FILE):
            return next((float(self.summary[form][name]) for form in FORMS if form in self.summary), None)


def read_run(workdir: Path) -> RunFiles:
    """Read a run's files; raise UserError if there is no run or one of its files is damaged."""
    if not (workdir / METRICS_FILE).is_file():
        raise UserError(f"--workdir {workdir} holds no run: there is no {METRICS_FILE} in it")
    records = read_metrics(workdir)
    values, config = _read_object(workdir / CONFIG_FILE), None
    if values:
        with telling_of_damage(workdir / CONFIG_FILE):
            config = check_config(values)
    network = next((read_network(workdir / name) for name in TO_SHOW if is_checkpoint(workdir / name)), None)
    return RunFiles(workdir, records, _read_object(workdir / SUMMARY_FILE), values, config, network)


def _read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty dict without the file."""
    if not file.exists():
        return {}
    with telling_of_damage(file):
        return read_json(file)


@contextmanager
def telling_of_damage(file: Path) -> Iterator[None]:
    """Convert any error that a file's contents cause to a UserError that names the file."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {one_line(error)}") from error


MOST_DETECTIONS = 1 << 30  # bytes of a JSON file
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
    """Write the page of a network without a run: ours or official, masked, condensed or plain.

    Raises:
      UserError: the checkpoint does not exist or is damaged, or `output` exists.
    """
    refuse_existing(output, overwrite, file=True)
    given, checkpoint = checkpoint, network_of_run(checkpoint, TO_SHOW)
    print_chosen(given, checkpoint)
    opened = open_weights(checkpoint, model=model, weights=weights, num_classes=num_classes)
    if isinstance(opened, OpenedDetector):
        network = opened.detector.backbone
        size = model_entry(network.name).image_size
    else:
        network, size = opened.network, opened.usage.preparation.size
        print_taken(opened.taken)
    cost = count_flops(network, size)
    sections = [
        figures_section(
            {network.form_name: {**dataclasses.asdict(cost), "bytes_on_disk": bytes_under(checkpoint)}},
            [f"Cost of one image of {size} × {size} pixels; accuracy was not measured."],
        )
    ]
    if learned_layers(network):
        sections.append(connections_section(network))
    data_set = data_set_of_published(network.name, network.architecture)
    if data_set is not None:
        sections.append(_published(data_set, cost, None))
    page = render_page(f"{network.name} ({network.form_name})", f"Network in {checkpoint}", sections)
    say(write_page(output, page))


def read_network(path: Path) -> Network:
    """Read a classifier, or the backbone of a detector, from a checkpoint."""
    opened = open_weights(path)
    return opened.detector.backbone if isinstance(opened, OpenedDetector) else opened.network


def classifier_published(
    network: Network, data: DataConfig, class_names: Sequence[str], error: float | None
) -> list[Section]:
    """Return the section that compares a classifier with published networks; empty without published figures.

    Args:
      network: the classifier.
      data: settings of its images.
      class_names: names of their classes.
      error: the network's top-1 error in per cent; None if not measured.
    """
    data_set = published_data_set(data.source, class_names)
    return [] if data_set is None else [_published(data_set, count_flops(network, data.image_size), error)]


def detector_published(
    config: DetectionConfig, images: DetectionSource | None, precision: float | None
) -> list[Section]:
    """Return the section with a detector and the published ones on COCO; empty for any other data, or without them.

    Args:
      images: the held-out images; None if they are not available.
      precision: the detector's mAP in per cent; None if not measured.
    """
    published: Mapping[str, float] = PUBLISHED.get(config.model.detector, {})
    if images is None or not is_coco_val2017(images) or not published:
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


def report(workdir: Path) -> None:
    """Write the plots of a run, finished or in progress, a detector's example images, and one page with everything.

    All files are read before anything is written.

    Raises:
      UserError: there is no run, or one of its files is damaged.
    """
    run = read_run(workdir)
    images, notes = detector_images(run.config) if isinstance(run.config, DetectionConfig) else (None, [])
    pictures = _pictures(run, images)
    page = render_page(_title(run), f"Run in {workdir}", _sections(run, images, pictures, notes))
    with telling_of_damage(workdir / METRICS_FILE):
        paths = plot_run(run.records, workdir)
    if pictures:
        paths.append(detections_sheet(pictures, workdir / EXAMPLES))
    paths.append(write_page(workdir / REPORT_FILE, page))
    say(*paths)


def _title(run: RunFiles) -> str:
    config = run.config
    if isinstance(config, ClassificationConfig):
        return f"{config.model.name} on {config.data.source}"
    if isinstance(config, DetectionConfig):
        data = config.data
        images = data.source if data.source == "shapes" else Path(data.directory).name or data.source
        return f"{config.model.detector} on {config.model.backbone}, {images}"
    return run.workdir.resolve().name


def _pictures(run: RunFiles, images: DetectionSource | None) -> list[np.ndarray]:
    """Return the example images of an evaluated detector."""
    file = run.workdir / DETECTIONS
    if images is None or not file.is_file():
        return []
    with telling_of_damage(file):
        return example_pictures(images, parse_json(read_bytes(file, MOST_DETECTIONS)))


def _sections(
    run: RunFiles, images: DetectionSource | None, pictures: list[np.ndarray], notes: list[str]
) -> list[Section]:
    with telling_of_damage(run.workdir / (SUMMARY_FILE if run.summary else METRICS_FILE)):
        sections = [run_figures(run)]
    with telling_of_damage(run.workdir / METRICS_FILE):
        kinds = [] if run.network is None else [kind for kind, _ in learned_layers(run.network)]
        sections.append(learning_section(run.records, kinds))
    if run.network is not None and kinds:
        sections.append(connections_section(run.network))
    if isinstance(run.config, ClassificationConfig):
        sections += _of_classifier(run, run.config)
    elif isinstance(run.config, DetectionConfig):
        precision = run.own_figure("AP")
        sections += detector_published(run.config, images, None if precision is None else 100 * precision)
    if (file := run.workdir / PRECISION_FILE).is_file():
        sections.append(precision_section(read_precision(file)))
    if pictures or (notes and (run.workdir / DETECTIONS).is_file()):
        sections.append(detections_section(pictures, notes))
    if run.values:
        sections.append(config_section(flat_fields(run.values)))
    return sections


def run_figures(run: RunFiles) -> Section:
    """Return the section of metrics: from the summary or, until there is one, the latest evaluation."""
    step = max((record["step"] for record in run.records), default=0)
    if run.summary:
        text = [f"The run has ended, after {step:,} steps."]
        if run.config is not None:
            batch = run.config.data.eval_batch_size
            text.append(f"Times are medians on one device of the run, in batches of up to {batch} images.")
        return figures_section(_with_costs(run), text)
    judged = of_kind(run.records, "eval")
    text = f"The run has not ended: {step:,} steps so far" + (", the latest evaluation below." if judged else ".")
    if not judged:
        return figures_section({}, [text])
    latest = {key: value for key, value in judged[-1].items() if key not in ("kind", "step")}
    live = {key.removeprefix("live_"): latest.pop(key) for key in list(latest) if key.startswith("live_")}
    weights = {"weights": latest.pop("weights")} if "weights" in latest else {}
    return figures_section({"EMA": latest, "live": live} if live else {**weights, "held-out images": latest}, [text])


def _with_costs(run: RunFiles) -> dict[str, Any]:
    """Return the summary with what those of older runs lack: which weights were kept, multiply-adds and sizes."""
    summary = {**({"weights": "EMA"} if "live" in run.summary else {}), **run.summary}
    for form in FORMS:
        if form in summary and is_checkpoint(run.workdir / form):
            costs = {"bytes_on_disk": bytes_under(run.workdir / form)}
            if run.network is not None and isinstance(run.config, ClassificationConfig):
                size = run.config.data.image_size
                stored = dataclasses.replace(run.network.form, condensed=form == "condensed")
                costs["multiply_adds"] = network_cost(run.network.architecture, stored, size, size).multiply_adds
            summary[form] = {**costs, **summary[form]}
    return summary


def _of_classifier(run: RunFiles, config: ClassificationConfig) -> list[Section]:
    """Return the sections that only classifiers have: published networks and mistakes."""
    accuracy, file = run.own_figure("accuracy"), run.workdir / PREDICTIONS_FILE
    error = None if accuracy is None else 100 * (1 - accuracy)
    examples = classifier_examples(config)
    sections = [] if run.network is None else classifier_published(run.network, config.data, examples.names, error)
    if file.is_file():
        predictions = read_predictions(file, config.model.num_classes)
        if examples.count is not None and predictions.images.max(initial=-1) >= examples.count:
            raise UserError(f"{file} refers to images beyond the {examples.count} of the data")
        sections.append(mistakes_section(predictions, examples.names, examples.picture, examples.notes))
    return sections
