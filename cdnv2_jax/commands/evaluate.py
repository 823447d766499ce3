"""The verb `eval`: evaluate a checkpoint on the held-out images of a config."""

import csv
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from cdnv2_jax.classification.config import ClassificationConfig, DataConfig
from cdnv2_jax.classification.experiment import ClassificationExperiment
from cdnv2_jax.commands.arguments import print_chosen, print_taken
from cdnv2_jax.commands.checkpoint_settings import (
    evaluated_classifier,
    evaluated_detector,
    evaluated_detector_program,
)
from cdnv2_jax.commands.read_config import read_with_origins
from cdnv2_jax.detection.classes import match_checkpoint
from cdnv2_jax.detection.config import DetectionConfig, DetectionData
from cdnv2_jax.detection.data.annotations import DetectionSource
from cdnv2_jax.detection.data.coco_2017 import is_coco_val2017
from cdnv2_jax.detection.evaluation import FIGURES, DetectionEvaluation, write_results
from cdnv2_jax.detection.experiment import DetectionExperiment
from cdnv2_jax.detectors.cost import cost_of
from cdnv2_jax.detectors.detector import PyramidDetector
from cdnv2_jax.devices import Devices, is_first_process, start_devices
from cdnv2_jax.errors import NOT_FINITE, UserError
from cdnv2_jax.files import refuse_existing, replacing
from cdnv2_jax.networks.family import count_flops, model_entry
from cdnv2_jax.networks.network import Network
from cdnv2_jax.report.mistakes import write_per_class
from cdnv2_jax.report.published import NAMES, data_set_of_published, published_data_set, published_map
from cdnv2_jax.terminal import Terminal
from cdnv2_jax.training.experiment import Evaluation
from cdnv2_jax.training.workdir import TO_USE, network_of_run
from cdnv2_jax.weights.checkpoint import load_detector
from cdnv2_jax.weights.open import (
    DetectorProgram,
    is_program,
    open_classifier,
    open_detector,
    open_detector_program,
)
from cdnv2_jax.weights.torch_file import Weights


def evaluate_checkpoint(
    spec: str,
    overrides: Sequence[str],
    checkpoint: Path,
    *,
    weights: Weights,
    output: Path | None,
    per_class: Path | None,
    overwrite: bool,
) -> None:
    """Print a network's metrics on the held-out images, its cost, and published figures if there are any.

    Args:
      spec, overrides: the config, which names the images and the network; see `read_with_origins`.
      checkpoint: any checkpoint, file or exported program that `open_classifier` reads, or the directory of a run.
      weights: which weights of an official file to use.
      output: file for a classifier's logits or a detector's results; None to write none.
      per_class: file for a table of metrics per class; None to write none.
      overwrite: replace these two files if they exist.
    """
    config, origins = read_with_origins(spec, overrides)
    for file in (output, per_class):
        if file is not None:
            refuse_existing(file, overwrite, file=True)
    start_devices()
    given, checkpoint = checkpoint, network_of_run(checkpoint, TO_USE)
    if is_first_process():
        print_chosen(given, checkpoint)
    if isinstance(config, DetectionConfig):
        _evaluate_detector(config, origins, checkpoint, weights, output, per_class)
        return
    assert isinstance(config, ClassificationConfig)
    _evaluate_classifier(config, origins, checkpoint, weights, output, per_class)


def _evaluate_classifier(
    config: ClassificationConfig,
    origins: Mapping[str, str],
    checkpoint: Path,
    weights: Weights,
    output: Path | None,
    per_class: Path | None,
) -> None:
    console = Terminal()
    opened = open_classifier(checkpoint, model=config.model.name, weights=weights, overrides=config.model.overrides)
    about, network = opened.described, opened.network
    config, lines = evaluated_classifier(config, origins, opened, checkpoint)
    experiment = ClassificationExperiment(config, Devices.all())
    try:
        experiment.match_classes(about.usage.class_names, about.num_classes)
    except UserError as error:
        raise UserError(f"{checkpoint} on {config.data.directory or config.data.source}: {error}") from error
    for line in (*experiment.data_lines(), *lines, *experiment.remarks):
        console.print(line)
    found = experiment.evaluate_program(opened.logits) if network is None else experiment.evaluate(network)
    _refuse_not_finite(checkpoint, found)
    if not is_first_process():
        return
    print_taken(opened.taken)
    console.print(f"{about.name} ({about.form}), {found.count:,} images of {config.data.source}")
    console.print(f"top-1 {found.top1:.4%}   top-5 {found.top5:.4%}   loss {found.loss:.6f}")
    _print_skipped(console, experiment.broken.found.values())
    if network is None:
        console.print(f"{about.flops:,} FLOPs, {about.params:,} parameters (official count)")
    else:
        _print_cost_and_published(console, network, config.data, experiment.held_out.class_names)
    if output is not None:
        with replacing(output) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, logits=found.logits, labels=found.labels)
    if per_class is not None:
        write_per_class(per_class, experiment.held_out.class_names, found.per_class())


def _refuse_not_finite(checkpoint: Path, found: Evaluation) -> None:
    if found.not_finite:
        raise UserError(f"{checkpoint} {NOT_FINITE} ({found.not_finite:,} images): nothing was written")


def _print_skipped(console: Terminal, names: Iterable[str]) -> None:
    if skipped := ", ".join(names):
        console.print(f"skipped, unreadable: {skipped}")


def _print_cost_and_published(
    console: Terminal, network: Network, data: DataConfig, class_names: Sequence[str]
) -> None:
    cost = count_flops(network, data.image_size)
    console.print(f"{cost.flops:,} FLOPs, {cost.params:,} parameters (official count)")
    published = model_entry(network.name).published
    dataset = published_data_set(data.source, class_names)
    same = data_set_of_published(network.name, network.architecture)
    if published is not None and dataset is not None and dataset == same:
        error = published.top1_error[dataset]
        console.print(f"published {NAMES[dataset]} top-1: {100 - error:.2f}% ({published.source})")


def _evaluate_detector(
    config: DetectionConfig,
    origins: Mapping[str, str],
    checkpoint: Path,
    weights: Weights,
    output: Path | None,
    per_class: Path | None,
) -> None:
    opened = (open_detector_program if is_program(checkpoint) else open_detector)(checkpoint, weights=weights)
    if isinstance(opened, DetectorProgram):
        classes = opened.described.classes
        config, lines = evaluated_detector_program(config, origins, opened, checkpoint)
    else:
        classes = opened.classes
        config, lines = evaluated_detector(config, origins, opened)
    experiment = DetectionExperiment(config, Devices.all())
    images = experiment.held_out
    experiment.category_ids, unmatched = match_checkpoint(classes, images, checkpoint)
    if not images.is_annotated and (output is None or per_class is not None):
        raise UserError(
            f"the held-out images of {config.data.directory} have no annotations, so that nothing can be scored: "
            "give --output for the detections, and no --per-class"
        )
    console = Terminal()
    for line in (*experiment.data_lines(), *lines, *unmatched):
        console.print(line)
    if isinstance(opened, DetectorProgram):
        experiment.canvas = opened.described.canvas
        found, cost = experiment.evaluate_program(opened.detect), ""
    else:
        detector = opened.detector
        if config.model.dtype != str(np.dtype(detector.backbone.param_dtype)):
            detector = load_detector(checkpoint, dtype=config.model.dtype)[0]
        detector.settings = config.model.detector_settings
        found, cost = experiment.evaluate(detector), _cost_line(detector, config.data)
    _refuse_not_finite(checkpoint, found)
    if not is_first_process():
        return
    title = f"{experiment.title}, {len(images):,} images of {_name_of(config.data, images)}"
    _print_detections(console, title, found)
    _print_skipped(console, experiment.broken.found.values())
    for line in (*filter(None, [cost]), *_published_lines(config, images)):
        console.print(line)
    if output is not None:
        write_results(output, found.results)
    if per_class is not None:
        with (
            replacing(per_class) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            csv.writer(file).writerows([PER_CLASS_COLUMNS, *map(dataclasses.astuple, found.precision.classes)])


PER_CLASS_COLUMNS = ("class", "objects", "AP", "AP50", "AP75")


def _cost_line(detector: PyramidDetector, data: DetectionData) -> str:
    (height, width), cost = data.canvas, cost_of(detector, *data.canvas)["total"]
    return f"{cost.multiply_adds:,} multiply-adds for {width} × {height} pixels, {cost.params:,} parameters"


def _print_detections(console: Terminal, title: str, found: DetectionEvaluation) -> None:
    if found.metrics:
        table = Table(title=title)
        for half in ("average precision", "", "average recall", ""):
            table.add_column(half, justify="right" if not half else "left")
        for precision, recall in zip(FIGURES[:6], FIGURES[6:], strict=True):
            cells = ((metric, f"{found.metrics[metric]:.3f}") for metric in (precision, recall))
            table.add_row(*(cell for pair in cells for cell in pair))
        console.print(table)
    else:
        console.print(f"{title}: {len(found.results):,} detections, not scored")
    if found.truncated:
        console.print(f"on {found.truncated} images the limit on candidates may have changed the result")


def _published_lines(config: DetectionConfig, images: DetectionSource) -> list[str]:
    published = published_map(config.model.detector, config.model.backbone)
    comparable = published is not None and is_coco_val2017(images)
    return [f"published COCO mAP: {published}% (CondenseNetV2 paper)"] if comparable else []


def _name_of(data: DetectionData, images: DetectionSource) -> str:
    """Return what the images are called: only COCO itself is called COCO."""
    if is_coco_val2017(images):
        return "COCO val2017"
    return data.source if data.source == "shapes" else data.directory
