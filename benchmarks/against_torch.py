"""How long does a training step and a prediction take, masked and condensed, beside PyTorch?

    python -m benchmarks.against_torch [--models cdnv2_a cdnv2_c] [--output FILE.json]

Peer: the same networks in PyTorch (eager, the twin of the tests: official semantics, with the dense 0/1 product in
the converted SFR). Each pair is timed in turn in one process, A B A B …, after a call that is not counted.
Ratio: the median of the peer's time over ours, pair by pair, with the lowest and highest.
Floor: the condensed network's multiply-adds (three times the masked network's for a step) at the rate of a large
matrix product measured in the same run; memory traffic comes on top of it.

Times depend on the machine and on what else it does; quote ratios.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe, measured_gemm_rate
from cdnv2_jax import condense, count_flops, create_model, prune, to_torch_state_dict
from cdnv2_jax.evaluation import compiled_forward
from cdnv2_jax.models.condensenet import CondenseNet
from cdnv2_jax.models.registry import model_entry
from cdnv2_jax.report.latency import milliseconds_per_call
from cdnv2_jax.training.config import OptimizerConfig
from cdnv2_jax.training.optimizer import learning_rate_schedule, make_optimizer
from cdnv2_jax.training.state import create_state
from cdnv2_jax.training.step import Objective, make_train_step
from tests.torch_twin import CondenseNetTwin, build_twin, converted
from tests.twin_models import twin_config

Entry = dict[str, Any]
TRAIN_BATCH = {"cdnv2_a": 16, "cdnv2_b": 16, "cdnv2_c": 8}
DEFAULT_TRAIN_BATCH = 64


def inference_entries(name: str, batches: list[int], rounds: int) -> list[Entry]:
    """Masked and condensed prediction of one model at several batch sizes."""
    masked, twin = pruned_pair(name)
    networks = {"masked": masked, "condensed": condense(masked)}
    twins = {"masked": twin, "condensed": converted(twin)}
    floor_cost = count_flops(networks["condensed"], model_entry(name).image_size).multiply_adds
    entries = []
    for batch in batches:
        images, their_images = example_images(name, batch)
        for form, network in networks.items():
            forward, peer = compiled_forward(network), twins[form]

            def ours(forward=forward, images=images) -> jax.Array:
                return forward(images)

            def theirs(peer=peer, images=their_images) -> torch.Tensor:
                with torch.inference_mode():
                    return peer(images)

            check_same(np.asarray(ours()), theirs().numpy())
            entries.append(entry(f"{name} {form}, inference", batch, ours, theirs, floor_cost * batch, rounds))
    return entries


def training_entry(name: str, rounds: int) -> Entry:
    """One step of SGD with momentum, masked, nothing pruned yet, EMA off."""
    batch = TRAIN_BATCH.get(name, DEFAULT_TRAIN_BATCH)
    images, their_images = example_images(name, batch)
    labels = np.arange(batch) % model_entry(name).architecture.num_classes
    model = create_model(name, rngs=nnx.Rngs(0))
    twin = twin_of(model).train()
    cost = 3 * count_flops(model, model_entry(name).image_size).multiply_adds * batch
    return entry(
        f"{name} training step",
        batch,
        our_step(model, images, jnp.asarray(labels)),
        their_step(twin, their_images, torch.tensor(labels)),
        cost,
        rounds,
    )


def our_step(model: CondenseNet, images: jax.Array, labels: jax.Array) -> Callable[[], Any]:
    """A call that makes one step."""
    config = OptimizerConfig(learning_rate=1e-3, weight_decay=4e-5)
    optimizer = make_optimizer(config, learning_rate_schedule(config, 1000, 1000))
    graph, state = create_state(model, optimizer)
    step = make_train_step(graph, optimizer, Objective(label_smoothing=0.1))

    def call() -> jax.Array:
        nonlocal state
        state, metrics = step(state, {"image": images, "label": labels})
        return metrics["loss"]

    return call


def their_step(twin: CondenseNetTwin, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], Any]:
    """The same in PyTorch."""
    optimizer = torch.optim.SGD(twin.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=4e-5)
    loss_function = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

    def call() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_function(twin(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return call


def entry(
    work: str, batch: int, ours: Callable[[], Any], theirs: Callable[[], Any], multiply_adds: int, rounds: int
) -> Entry:
    """Times one pair."""
    times = milliseconds_per_call({"ours": ours, "torch": theirs}, rounds=rounds, seconds=40)
    ratios = [b / a for a, b in zip(times["ours"], times["torch"], strict=True)]
    return {
        "work": work,
        "batch": batch,
        "ms_ours": statistics.median(times["ours"]),
        "ms_torch": statistics.median(times["torch"]),
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "rounds": len(ratios),
        "multiply_adds": multiply_adds,
    }


def pruned_pair(name: str) -> tuple[CondenseNet, CondenseNetTwin]:
    """A fully pruned network with random weights, and its twin."""
    model = create_model(name, rngs=nnx.Rngs(0))
    model.eval()
    prune(model, model.architecture.condensation_stages)
    return model, twin_of(model).eval()


def twin_of(model: CondenseNet) -> CondenseNetTwin:
    """The PyTorch network with the same weights and masks."""
    twin = build_twin(twin_config(model.architecture))
    twin.load_state_dict({key: torch.tensor(array) for key, array in to_torch_state_dict(model).items()})
    return twin


def example_images(name: str, batch: int) -> tuple[jax.Array, torch.Tensor]:
    """The same random images, NHWC for JAX and NCHW for PyTorch."""
    size = model_entry(name).image_size
    images = np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)
    return jnp.asarray(images), torch.tensor(images.transpose(0, 3, 1, 2)).contiguous()


def check_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Both must compute the same function, or the comparison means nothing."""
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if difference > 1e-4:
        raise AssertionError(f"the two networks differ by {difference:.1e}")


def show(entries: list[Entry], rate: float, console: Console) -> None:
    """The table in the terminal."""
    table = Table(title="Beside PyTorch, eager (ratio above 1: ours is faster)")
    for column in ("work", "batch", "ours, ms", "PyTorch, ms", "ratio", "lowest to highest", "compute floor, ms"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for e in entries:
        spread = f"{e['ratio_lowest']:.2f} to {e['ratio_highest']:.2f}"
        floor = f"{1e3 * e['multiply_adds'] / rate:.1f}"
        cells = (f"{e['ms_ours']:.1f}", f"{e['ms_torch']:.1f}", f"{e['ratio']:.2f}", spread, floor)
        table.add_row(e["work"], str(e["batch"]), *cells)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_torch", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["cdnv2_a", "cdnv2_c", "cdnv2_cifar_110"], metavar="NAME")
    parser.add_argument("--train-models", nargs="*", default=["cdnv2_a", "cdnv2_cifar_110"], metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32], metavar="N")
    parser.add_argument("--rounds", type=int, default=11, help="timed calls of each (fewer when 40 s are up)")
    parser.add_argument("--output", type=Path, help="also write the figures there, as JSON")
    options = parser.parse_args()
    console = Console()
    rate = measured_gemm_rate()
    entries: list[Entry] = []
    for name in options.models:
        console.print(f"{name}: inference …")
        entries += inference_entries(name, options.batches, options.rounds)
    for name in options.train_models:
        console.print(f"{name}: training step …")
        entries.append(training_entry(name, options.rounds))
    show(entries, rate, console)
    if options.output:
        record = {"machine": describe(), "gemm_multiply_adds_per_second": rate, "entries": entries}
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
