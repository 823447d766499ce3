"""`main.py eval`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from cdnv2_jax.commands.checkpoints import open_checkpoint
from cdnv2_jax.commands.config_flag import read_config
from cdnv2_jax.errors import UserError
from cdnv2_jax.evaluation import compiled_forward, evaluate
from cdnv2_jax.files import refuse_existing, replacing
from cdnv2_jax.models.registry import model_entry
from cdnv2_jax.report.cost import count_flops
from cdnv2_jax.torch_io.read import Weights
from cdnv2_jax.training.loop import held_out_for


def evaluate_checkpoint(
    spec: str,
    overrides: Sequence[str],
    checkpoint: Path,
    *,
    weights: Weights,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Prints top-1, top-5, loss and cost; published figures beside them where the registry has any."""
    config = read_config(spec, overrides)
    if output is not None:
        refuse_existing(output, overwrite, file=True)
    held_out = held_out_for(config)
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
    result = evaluate(compiled_forward(network), held_out)
    cost = count_flops(network, config.data.image_size)
    console = Console()
    form = "condensed" if network.form.condensed else "masked"
    console.print(f"{network.name} ({form}), {result.count:,} images of {config.data.source}")
    console.print(f"top-1 {result.top1:.4%}   top-5 {result.top5:.4%}   loss {result.loss:.6f}")
    console.print(f"{cost.flops:,} FLOPs, {cost.params:,} parameters (official count)")
    published = model_entry(network.name).published
    if published is not None and config.data.source == "image_folder" and "imagenet" in published.top1_error:
        error = published.top1_error["imagenet"]
        console.print(f"published ImageNet top-1: {100 - error:.1f}% ({published.source})")
    if output is not None:
        with replacing(output) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, logits=result.logits, labels=result.labels)
