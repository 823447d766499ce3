"""Time a training step beside PyTorch.

    python -m benchmarks.training [--work cdnv2_a:16 cdnv2_cifar_110:64] [--pruned no yes] [--peers torch]

Ours: the step of real runs, forward, backward and update in one program, NHWC, float32, without moving averages. Peers:
the tests' PyTorch twin with the same weights, images and update (SGD with Nesterov momentum, label smoothing, weight
decay on matrices): torch and torch_channels_last are eager; in torch_compile inductor compiles network and loss. A peer
whose first three losses differ from ours is refused. The network is masked, before any pruning and after the last.

As in `main.py train`, the process keeps freed memory, from which all sides benefit. Timing and ratios are those of
`benchmarks.inference`; torch.compile takes minutes per network.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from benchmarks.comparison import OURS, admitted, compared
from benchmarks.floors import training_floor
from benchmarks.machine import measured_rates
from benchmarks.networks import example_images, example_labels, pruned_pair, twin_of
from benchmarks.options import add_measuring, check_models, make_parser, run
from benchmarks.peers import TRAINERS, Trainer, chosen
from benchmarks.results import Entry, results_file, write_results
from benchmarks.tables import print_comparison
from benchmarks.timing import Call
from cdnv2_jax import create_model
from cdnv2_jax.classification.experiment import classification_loss
from cdnv2_jax.commands.processes import keep_freed_memory
from cdnv2_jax.networks.family import model_entry
from cdnv2_jax.networks.network import Network
from cdnv2_jax.training.config import OptimizerConfig
from cdnv2_jax.training.optimizer import make_optimizer
from cdnv2_jax.training.step import Batch, TrainState, TrainStep, create_state, make_train_step

SCRIPT = "training"
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, weight_decay=4e-5)
SMOOTHING = 0.1
CHECKED_STEPS = 3
LOSS_TOLERANCE = 1e-3  # rounding grows over the steps
PRUNED = {"no": "nothing pruned", "yes": "fully pruned"}


def training_entry(
    name: str, batch: int, pruned: bool, trainers: Mapping[str, Trainer], rounds: int, seconds: float
) -> Entry:
    """Time one step of ours and of all trainers."""
    entry = model_entry(name)
    images = example_images(batch, entry.image_size)
    labels = example_labels(batch, entry.architecture.num_classes)
    model = pruned_pair(name)[0] if pruned else create_model(name, rngs=nnx.Rngs(0))
    peers = {
        key: partial(trainer.start, twin_of(model), images, labels, OPTIMIZER, SMOOTHING)
        for key, trainer in trainers.items()
    }
    ours = our_step(model, images, labels)
    calls, refused = admitted(peers, first_losses(ours), probe=first_losses, tolerance=LOSS_TOLERANCE)
    floor = training_floor(entry.architecture, batch, entry.image_size)
    form = PRUNED["yes" if pruned else "no"]
    what = {"model": name, "form": form, "batch": batch, "image_size": entry.image_size}
    return what | compared({OURS: ours, **calls}, refused, floor, rounds, seconds)


def our_step(model: Network, images: np.ndarray, labels: np.ndarray) -> Call:
    """A call that makes one step and returns the loss before it, a number, when all of the step is done."""
    return step_call(*our_program(model, images, labels))


def our_program(model: Network, images: np.ndarray, labels: np.ndarray) -> tuple[TrainStep, TrainState, Batch]:
    """The jitted step and what to call it with."""
    optimizer = make_optimizer(OPTIMIZER, optax.constant_schedule(OPTIMIZER.learning_rate))
    graph, state = create_state(model, optimizer)
    step = make_train_step(graph, optimizer, partial(classification_loss, label_smoothing=SMOOTHING))
    return step, state, jax.device_put({"image": images, "label": labels.astype(np.int32)})


def step_call(step: TrainStep, state: TrainState, batch: Batch) -> Call:
    """See `our_step`; each call continues from the state of the last one."""

    def call() -> float:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, batch))
        return float(metrics["loss"])

    return call


def first_losses(call: Call) -> np.ndarray:
    """Return the losses of a trainer's first steps."""
    return np.array([call() for _ in range(CHECKED_STEPS)])


def parse_work(text: str) -> tuple[str, int]:
    """Parse "cdnv2_a:16" → ("cdnv2_a", 16), for argparse."""
    name, _, batch = text.partition(":")
    if not batch.isdecimal() or int(batch) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODEL:BATCH, such as cdnv2_a:16")
    return name, int(batch)


def training(options: argparse.Namespace, console: Console) -> None:
    """Measure, print and write the results."""
    check_models([name for name, _ in options.work])
    trainers = chosen(options.peers, TRAINERS)
    path = results_file(options.output, SCRIPT)
    rates, entries = measured_rates(), []
    for name, batch in options.work:
        for pruned in options.pruned:
            console.print(f"{name}, {PRUNED[pruned]}, batch {batch} …")
            entry = training_entry(name, batch, pruned == "yes", trainers, options.rounds, options.seconds)
            entries.append(entry)
            write_results(path, SCRIPT, rates, entries)
    print_comparison("One training step", entries, rates, console)
    console.print(f"written to {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    keep_freed_memory()
    parser = make_parser(SCRIPT, __doc__)
    work = [("cdnv2_a", 16), ("cdnv2_cifar_110", 64)]
    parser.add_argument("--work", nargs="+", type=parse_work, default=work, metavar="NAME:BATCH", help="what to train")
    parser.add_argument("--pruned", nargs="+", choices=list(PRUNED), default=list(PRUNED), help="before, after pruning")
    parser.add_argument("--peers", nargs="*", default=list(TRAINERS), metavar="NAME", help=f"of {', '.join(TRAINERS)}")
    add_measuring(parser)
    return run(parser, training, arguments)


if __name__ == "__main__":
    sys.exit(main())
