"""The verb `eval`: evaluate a checkpoint on the held-out images of a config."""

import csv
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cdnv2_jax.classification.config import ClassificationConfig, DataConfig
from cdnv2_jax.classification.experiment import ClassificationExperiment
from cdnv2_jax.classification.preprocessing import data_fields, data_fields_in_effect
from cdnv2_jax.commands.arguments import print_taken
from cdnv2_jax.commands.read_config import COMMAND_LINE, as_trained, read_with_origins
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.evaluation import FIGURES, write_results
from cdnv2_jax.detection.experiment import DetectionExperiment
from cdnv2_jax.detectors.cost import cost_of
from cdnv2_jax.devices import Devices, is_first_process
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import refuse_existing, replacing
from cdnv2_jax.networks.family import count_flops, model_entry
from cdnv2_jax.networks.network import Network
from cdnv2_jax.report.mistakes import write_per_class
from cdnv2_jax.report.published import NAMES, data_set_of_published, published_data_set, published_map
from cdnv2_jax.weights.metadata import usual_preparation
from cdnv2_jax.weights.open import OpenedNetwork, open_detector, open_network
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
      spec, overrides: the config, which names the images and the network; see `read_config`.
      checkpoint: any checkpoint or file that `open_weights` reads.
      weights: which weights of an official file to use.
      output: file for a classifier's logits or a detector's results; None to write none.
      per_class: file for a table of metrics per class; None to write none.
      overwrite: replace these two files if they exist.
    """
    config, origins = read_with_origins(spec, overrides)
    given = [name for name, origin in origins.items() if origin == COMMAND_LINE]
    for file in (output, per_class):
        if file is not None:
            refuse_existing(file, overwrite, file=True)
    if isinstance(config, DetectionConfig):
        _evaluate_detector(spec, config, checkpoint, output, per_class)
        return
    assert isinstance(config, ClassificationConfig)
    _evaluate_classifier(spec, config, given, checkpoint, weights, output, per_class)


def _evaluate_classifier(
    spec: str,
    config: ClassificationConfig,
    given: Sequence[str],
    checkpoint: Path,
    weights: Weights,
    output: Path | None,
    per_class: Path | None,
) -> None:
    console = Console(quiet=not is_first_process(), soft_wrap=True)
    opened = open_network(
        checkpoint,
        model=config.model.name,
        weights=weights,
        num_classes=config.model.num_classes,
        overrides=config.model.overrides,
    )
    network = opened.network
    if network.name != config.model.name:
        raise UserError(f"{checkpoint} holds a {network.name}, {spec} is for a {config.model.name}")
    config, lines = _as_trained(config, opened, given)
    experiment = ClassificationExperiment(config, Devices.all())
    try:
        experiment.match_classes(opened.class_names, network.architecture.num_classes)
    except UserError as error:
        raise UserError(f"{checkpoint} on {config.data.directory or config.data.source}: {error}") from error
    for line in (*experiment.data_lines(), *lines, *experiment.remarks):
        console.print(line)
    found = experiment.evaluate(network)
    if not is_first_process():
        return
    print_taken(opened.taken)
    console.print(f"{network.name} ({network.form_name}), {found.count:,} images of {config.data.source}")
    console.print(f"top-1 {found.top1:.4%}   top-5 {found.top5:.4%}   loss {found.loss:.6f}")
    _print_skipped(console, experiment.broken.found.values())
    _print_cost_and_published(console, network, config.data, experiment.held_out.class_names)
    if output is not None:
        with replacing(output) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, logits=found.logits, labels=found.labels)
    if per_class is not None:
        with replacing(per_class) as temporary:
            write_per_class(temporary, experiment.held_out.class_names, found.per_class())


def _as_trained(
    config: ClassificationConfig, opened: OpenedNetwork, given: Sequence[str]
) -> tuple[ClassificationConfig, list[str]]:
    """Return the config with the checkpoint's preprocessing and number of classes, and lines on what that changes.

    A checkpoint that stores no preprocessing has the config's; a line tells where this is not the official code's.
    """
    classes = opened.network.architecture.num_classes
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=classes))
    ours = data_fields_in_effect(config)
    if opened.stored_usage is not None:
        return as_trained(config, ours, data_fields(opened.stored_usage.preparation), given)
    usual = data_fields(usual_preparation(opened.network))
    return config, [
        f"data.{name} is {ours[name]}, as the config says; the official code has {usual[name]} for {config.model.name}"
        for name in ours
        if ours[name] != usual[name]
    ]


def _print_skipped(console: Console, names: Iterable[str]) -> None:
    if skipped := ", ".join(names):
        console.print(f"skipped, unreadable: {skipped}")


def _print_cost_and_published(console: Console, network: Network, data: DataConfig, class_names: Sequence[str]) -> None:
    cost = count_flops(network, data.image_size)
    console.print(f"{cost.flops:,} FLOPs, {cost.params:,} parameters (official count)")
    published = model_entry(network.name).published
    dataset = published_data_set(data.source, class_names)
    same = data_set_of_published(network.name, network.architecture)
    if published is not None and dataset is not None and dataset == same:
        error = published.top1_error[dataset]
        console.print(f"published {NAMES[dataset]} top-1: {100 - error:.2f}% ({published.source})")


def _evaluate_detector(
    spec: str, config: DetectionConfig, checkpoint: Path, output: Path | None, per_class: Path | None
) -> None:
    experiment = DetectionExperiment(config, Devices.all())
    opened = open_detector(checkpoint)
    detector, classes = opened.detector, opened.classes
    name = f"{detector.settings.kind} on {detector.backbone.name}"
    if name != experiment.title:
        raise UserError(f"{checkpoint} holds a {name}, {spec} is for a {experiment.title}")
    if list(classes.category_ids) != [int(i) for i in experiment.held_out.category_ids]:
        raise UserError(
            f"{checkpoint} has other classes ({', '.join(classes.names[:3])}, …) than "
            f"{config.data.directory or config.data.source}"
        )
    found = experiment.evaluate(detector)
    if not is_first_process():
        return
    console = Console()
    table = Table(title=f"{name}, {len(experiment.held_out):,} images of {config.data.source}")
    for half in ("average precision", "", "average recall", ""):
        table.add_column(half, justify="right" if not half else "left")
    for precision, recall in zip(FIGURES[:6], FIGURES[6:], strict=True):
        table.add_row(*(cell for metric in (precision, recall) for cell in (metric, f"{found.metrics[metric]:.3f}")))
    console.print(table)
    _print_skipped(console, experiment.broken.found.values())
    if found.truncated:
        console.print(f"on {found.truncated} images the limit on candidates may have changed the result")
    (height, width), cost = config.data.canvas, cost_of(detector, *config.data.canvas)["total"]
    console.print(f"{cost.multiply_adds:,} multiply-adds for {width} × {height} pixels, {cost.params:,} parameters")
    published = published_map(config.model.detector, config.model.backbone)
    if config.data.source != "shapes" and published is not None:
        console.print(f"published COCO mAP: {published}% (CondenseNetV2 paper)")
    if output is not None:
        write_results(output, found.results)
    if per_class is not None:
        with replacing(per_class) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("class", "AP"), *found.per_class])
