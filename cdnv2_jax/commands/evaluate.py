"""`main.py eval`."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cdnv2_jax.classification.config import ClassificationConfig, DataConfig
from cdnv2_jax.classification.evaluation import HeldOut
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.detection.checkpoint import load_detector
from cdnv2_jax.detection.coco_evaluation import FIGURES, write_results
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.cost import cost_of
from cdnv2_jax.detection.evaluation import HeldOutDetection
from cdnv2_jax.devices import Devices, is_first_process
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import refuse_existing, replacing
from cdnv2_jax.networks.cost import count_flops
from cdnv2_jax.networks.family import AnyNetwork
from cdnv2_jax.networks.zoo import model_entry
from cdnv2_jax.report.mistakes import write_per_class
from cdnv2_jax.report.published import NAMES, data_set_of_published, published_data_set, published_map
from cdnv2_jax.weights.open import open_checkpoint
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
    """Prints top-1, top-5, loss and cost; published figures beside them where the registry has any."""
    config = read_config(spec, overrides)
    for file in (output, per_class):
        if file is not None:
            refuse_existing(file, overwrite, file=True)
    if isinstance(config, DetectionConfig):
        evaluate_detector(spec, config, checkpoint, output=output, per_class=per_class)
        return
    assert isinstance(config, ClassificationConfig)
    held_out = HeldOut(config, Devices.all())
    network = open_checkpoint(
        checkpoint,
        model=config.model.name,
        weights=weights,
        num_classes=config.model.num_classes,
        overrides=config.model.overrides,
    )
    if network.name != config.model.name:
        raise UserError(f"{checkpoint} holds a {network.name}, {spec} is for a {config.model.name}")
    if network.architecture.num_classes != config.model.num_classes:
        raise UserError(
            f"{checkpoint} tells {network.architecture.num_classes} classes apart, {spec} {config.model.num_classes}"
        )
    result = held_out.evaluate(network)
    if not is_first_process():
        return
    console = Console()
    form = network.form_name
    console.print(f"{network.name} ({form}), {result.count:,} images of {config.data.source}")
    console.print(f"top-1 {result.top1:.4%}   top-5 {result.top5:.4%}   loss {result.loss:.6f}")
    if broken := held_out.broken.found:
        console.print(f"left out, unreadable: {', '.join(broken.values())}")
    _print_cost_and_published(console, network, config.data)
    if output is not None:
        with replacing(output) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, logits=result.logits, labels=result.labels)
    if per_class is not None:
        with replacing(per_class) as temporary:
            write_per_class(temporary, held_out.source.class_names, result.per_class())


def _print_cost_and_published(console: Console, network: AnyNetwork, data: DataConfig) -> None:
    cost = count_flops(network, data.image_size)
    console.print(f"{cost.flops:,} FLOPs, {cost.params:,} parameters (official count)")
    published = model_entry(network.name).published
    dataset = published_data_set(data.source, network.architecture.num_classes)
    same = data_set_of_published(network.name, network.architecture)
    if published is not None and dataset is not None and dataset == same:
        error = published.top1_error[dataset]
        console.print(f"published {NAMES[dataset]} top-1: {100 - error:.2f}% ({published.source})")


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
