"""The end of a run: condense, compare masked and condensed, write summary, networks and plots."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.data import usage_in
from cdnv2_jax.classification.evaluation import Evaluation, HeldOut, compiled_forward
from cdnv2_jax.devices import is_first_process
from cdnv2_jax.networks.cost import count_flops
from cdnv2_jax.networks.family import AnyNetwork
from cdnv2_jax.pruning.condense import condense
from cdnv2_jax.pruning.prune import stages_passed
from cdnv2_jax.report.figures import comparison_table, median_milliseconds, milliseconds_per_call
from cdnv2_jax.report.learning import PLOTS, plot_run
from cdnv2_jax.report.mistakes import Predictions, write_per_class, write_predictions
from cdnv2_jax.training.records import SUMMARY_FILE, read_metrics
from cdnv2_jax.weights.checkpoint import save
from cdnv2_jax.weights.usage import KEY

PER_CLASS_FILE, PREDICTIONS_FILE = "per_class.csv", "predictions.csv"
RESULTS = ("masked", "condensed", "plain", PER_CLASS_FILE, PREDICTIONS_FILE, *PLOTS)


def finish(
    trained: AnyNetwork,
    live: AnyNetwork | None,
    config: ClassificationConfig,
    held_out: HeldOut,
    workdir: Path,
    console: Console,
) -> dict[str, Any]:
    """Condenses the trained network, measures both, and leaves in `workdir`:

    masked/ and condensed/ (checkpoints), learning_curves.png, sparsity.png, per_class.csv, predictions.csv and, last,
    summary.json, which is also what is returned: {"masked": {"accuracy", "top5", "loss", "flops", "params",
    "ms_per_image"}, "condensed": {the same}, "max_logit_difference", "stages_passed"}, with averaged weights "live":
    {"accuracy", "top5", "loss"} of those not averaged; accuracy in [0, 1]. A run that trained a condensed network has
    no "masked", one whose network has nothing to condense has "plain" alone, as network and in the summary.

    Every process takes part in the evaluation; the first one measures and writes.
    """
    networks = {trained.form_name: trained}
    if trained.form_name == "masked":
        networks["condensed"] = condense(trained)
    results = {name: held_out.evaluate(network) for name, network in networks.items()}
    summary: dict[str, Any] = {name: _figures(result) for name, result in results.items()}
    if live is not None:
        summary["live"] = _figures(held_out.evaluate(live))
    if not is_first_process():
        return summary
    milliseconds = _latency(networks, held_out.example_images())
    costs = {name: count_flops(network, config.data.image_size) for name, network in networks.items()}
    for name, network in networks.items():
        cost = {"flops": costs[name].flops, "params": costs[name].params, "ms_per_image": milliseconds[name]}
        summary[name] |= cost
        metadata = {"accuracy": results[name].top1, KEY: usage_in(config, held_out.source).to_json()}
        save(workdir / name, network, metadata=metadata, overwrite=True)
    if "masked" in results:
        difference = np.abs(results["masked"].logits - results["condensed"].logits).max()
        summary["max_logit_difference"] = float(difference)
        summary["stages_passed"] = stages_passed(trained)
    *_, final = results.values()
    write_per_class(workdir / PER_CLASS_FILE, held_out.source.class_names, final.per_class())
    write_predictions(workdir / PREDICTIONS_FILE, Predictions.from_logits(final.logits, final.labels, final.images))
    plot_run(read_metrics(workdir), workdir)
    (workdir / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    multiply_adds = {name: cost.multiply_adds for name, cost in costs.items()}
    console.print(comparison_table(summary, multiply_adds, config.data.eval_batch_size))
    return summary


def _figures(result: Evaluation) -> dict[str, Any]:
    return {"accuracy": result.top1, "top5": result.top5, "loss": result.loss}


def _latency(networks: dict[str, AnyNetwork], images: np.ndarray) -> dict[str, float]:
    on_device = jax.numpy.asarray(images)
    forwards = {name: compiled_forward(network) for name, network in networks.items()}
    calls = {name: (lambda forward=forward: forward(on_device)) for name, forward in forwards.items()}
    return median_milliseconds(milliseconds_per_call(calls), images=len(images))
