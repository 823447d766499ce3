"""The end of a run: condense, compare masked and condensed, write summary, networks and plots."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from cdnv2_jax.checkpoint.model import save
from cdnv2_jax.condensation.condense import condense
from cdnv2_jax.condensation.prune import stages_passed
from cdnv2_jax.evaluation import Forward, compiled_forward, evaluate
from cdnv2_jax.models.condensenet import CondenseNet
from cdnv2_jax.report.cost import count_flops
from cdnv2_jax.report.latency import median_milliseconds, milliseconds_per_call
from cdnv2_jax.report.plots import plot_run
from cdnv2_jax.report.table import comparison_table
from cdnv2_jax.training.config import TrainConfig
from cdnv2_jax.training.loop import held_out_for
from cdnv2_jax.training.progress import read_metrics

SUMMARY_FILE = "summary.json"


def finish(masked: CondenseNet, config: TrainConfig, workdir: Path, console: Console) -> dict[str, Any]:
    """Condenses the trained network, measures both, and leaves in `workdir`:

    masked/ and condensed/ (checkpoints), learning_curves.png, sparsity.png and, last, summary.json, which is also
    what is returned: {"masked": {"accuracy", "flops", "params", "ms_per_image"}, "condensed": {the same},
    "max_logit_difference", "stages_passed"}; accuracy in [0, 1].
    """
    networks = {"masked": masked, "condensed": condense(masked)}
    forwards = {name: compiled_forward(network) for name, network in networks.items()}
    results = {name: evaluate(forward, held_out_for(config)) for name, forward in forwards.items()}
    milliseconds = _latency(forwards, config)
    costs = {name: count_flops(network, config.data.image_size) for name, network in networks.items()}
    summary: dict[str, Any] = {}
    for name, network in networks.items():
        summary[name] = {
            "accuracy": results[name].top1,
            "flops": costs[name].flops,
            "params": costs[name].params,
            "ms_per_image": milliseconds[name],
        }
        save(workdir / name, network, metadata={"accuracy": results[name].top1}, overwrite=True)
    difference = np.abs(results["masked"].logits - results["condensed"].logits).max()
    summary["max_logit_difference"] = float(difference)
    summary["stages_passed"] = stages_passed(masked)
    plot_run(read_metrics(workdir), workdir)
    (workdir / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    multiply_adds = {name: cost.multiply_adds for name, cost in costs.items()}
    console.print(comparison_table(summary, multiply_adds, config.data.eval_batch_size))
    return summary


def _latency(forwards: dict[str, Forward], config: TrainConfig) -> dict[str, float]:
    (images, _), _ = next(held_out_for(config))
    on_device = jax.numpy.asarray(images)
    calls = {name: (lambda forward=forward: forward(on_device)) for name, forward in forwards.items()}
    return median_milliseconds(milliseconds_per_call(calls), images=len(images))
