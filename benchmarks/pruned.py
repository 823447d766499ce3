"""What pruning did to a trained network: its accuracy around each stage, and its time masked and condensed.

    python -m benchmarks.pruned RUN --name cdnv2_fashion_mnist    # → benchmarks/results/pruned/NAME.json
    python -m benchmarks.pruned --docs                            # → docs/results.md and its plots

NAME is that of the network in weights/, whose connections are drawn.

RUN is a directory of `cdnv2 train` that kept the checkpoints of all epochs (`--config.checkpoint_every_epochs=1
--config.keep_checkpoints=1000`) and whose stages fall on ends of epochs, such as 6 epochs with 3 stages. The network at
each stage is evaluated before it, with the stage's connections removed, and with as many removed at random. What
training recovered is its accuracy an epoch later.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from rich.console import Console

from benchmarks.machine import describe
from benchmarks.markdown import replaced, table
from benchmarks.networks import example_images
from benchmarks.options import make_parser, run
from benchmarks.plots import write_figure
from benchmarks.results import COMMITTED, Entry, read_results
from benchmarks.timing import measure_in_turn, spread
from cdnv2_jax import condense, load, load_pretrained, prune
from cdnv2_jax.bounded_reading import read_json
from cdnv2_jax.commands.read_config import check_config, make_experiment
from cdnv2_jax.devices import Devices
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import write_text
from cdnv2_jax.layers.learned import ConnectionMask, masked_convs
from cdnv2_jax.networks.network import Network
from cdnv2_jax.pruning.prune import pruning_steps, sparsity
from cdnv2_jax.report.connection_plots import draw_layer_map
from cdnv2_jax.report.connections import connections_by_kind, layer_map
from cdnv2_jax.report.learning import of_kind
from cdnv2_jax.training.checkpoints import RunCheckpoints
from cdnv2_jax.training.records import read_metrics
from cdnv2_jax.training.step import live_model
from cdnv2_jax.training.workdir import CHECKPOINTS, CONFIG_FILE
from cdnv2_jax.weights.programs import compiled_forward

SCRIPT = "pruned"
PRUNED = COMMITTED / "pruned"
DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"
START, END = "<!-- pruned {name}: python -m benchmarks.pruned --docs -->", "<!-- end of pruned {name} -->"
BATCHES = (1, 32)
OURS_COLOUR = "#228833"


def stage_entries(workdir: Path, console: Console) -> list[Entry]:
    """Evaluate around each stage of a run."""
    experiment = make_experiment(check_config(read_json(workdir / CONFIG_FILE)), Devices.all())
    experiment.prepare_training()
    top1 = {step: accuracy for step, _, accuracy in live_accuracies(workdir)}
    entries = []
    with RunCheckpoints(workdir / CHECKPOINTS, keep=1000) as checkpoints:
        for stage, step in pruning_steps(experiment.total_steps, experiment.stages + 1).items():
            if not (workdir / CHECKPOINTS / str(step)).is_dir():
                raise UserError(f"{workdir} kept no checkpoint of step {step}, before which stage {stage} was due")
            state, _ = checkpoints.restore(experiment.state_shapes(), experiment.devices, step)

            def accuracy(change: Callable[[Network], None], state: Any = state) -> tuple[float, float]:
                network = live_model(experiment.graph, state)
                change(network)
                return experiment.evaluate(network).score, 1 - float(sparsity(network))

            after, connections = accuracy(partial(prune, stage=stage))
            random, _ = accuracy(partial(prune_at_random, stage=stage))
            entries.append(
                {
                    "stage": stage,
                    "epoch": step / experiment.steps_per_epoch,
                    "connections": connections,
                    "before": top1[step],
                    "after": after,
                    "at_random": random,
                    "an_epoch_later": top1[step + experiment.steps_per_epoch],
                }
            )
            console.print(f"stage {stage}: {top1[step]:.2%}, pruned {after:.2%}, at random {random:.2%}")
    return entries


def live_accuracies(workdir: Path) -> list[tuple[int, float, float]]:
    """Return (step, epoch, top-1) of the live weights at every evaluation of a run."""
    found = of_kind(read_metrics(workdir), "eval")
    return [(each["step"], each["epoch"], each.get("live_top1", each["top1"])) for each in found]


def prune_at_random(network: nnx.Module, stage: int) -> None:
    """Prune to a stage as `prune` does, but choose each group's connections at random among those that are left."""
    random = np.random.default_rng(stage)
    for conv in masked_convs(network):
        kept = np.array(conv.mask[...])
        channels = kept.shape[1]
        left = channels - stage * channels // conv.condensation_factor
        for group in kept:
            chosen = random.choice(np.flatnonzero(group), left, replace=False)
            group[:] = False
            group[chosen] = True
        conv.mask = ConnectionMask(kept)


def times(masked: Network, side: int) -> list[Entry]:
    """Time both forms of a network, milliseconds per image."""
    forms = {"masked": masked, "condensed": condense(masked)}
    entries = []
    for batch in BATCHES:
        images = example_images(batch, side)
        calls = {name: partial(compiled_forward(network), images) for name, network in forms.items()}
        found = measure_in_turn(calls)
        entries.append({"batch": batch, **{name: spread(each)._asdict() for name, each in found.items()}})
    return entries


def measure(options: argparse.Namespace, console: Console) -> None:
    """Measure and write the results."""
    side = read_json(options.run / CONFIG_FILE)["data"]["image_size"]
    curve = [{"epoch": epoch, "top1": accuracy} for _, epoch, accuracy in live_accuracies(options.run)]
    record = {
        "curve": curve,
        "stages": stage_entries(options.run, console),
        "times": times(load(options.run / "masked"), side),
        "machine": describe(),
    }
    path = PRUNED / f"{options.name}.json"
    write_text(path, json.dumps(record, indent=1) + "\n")
    console.print(f"written to {path}")


def text_of(record: Entry) -> str:
    """Return the two tables of one network."""
    rows = [
        [
            *(str(e["stage"]), f"{e['connections']:.0%}", f"{e['before']:.2%}", f"{e['after']:.2%}"),
            *(f"{e['at_random']:.2%}", f"{e['an_epoch_later']:.2%}"),
        ]
        for e in record["stages"]
    ]
    header = ["stage", "connections left", "before", "just after", "just after, at random", "an epoch later"]
    timed = [
        [
            str(e["batch"]),
            *(f"{e[form]['median'] / e['batch']:.2f}" for form in ("masked", "condensed")),
            f"{e['masked']['median'] / e['condensed']['median']:.1f}",
        ]
        for e in record["times"]
    ]
    machine = record["machine"]
    line = f"Milliseconds per image on {machine['cores']} cores of an {machine['processor']}, {machine['date']}:"
    forms = table(["batch", "masked", "condensed", "times faster"], timed)
    return f"{table(header, rows)}\n\n{line}\n\n{forms}"


def draw_curve(figure: Any, record: Entry) -> None:
    """Draw the held-out accuracy over the epochs, with its fall at each stage and that of random pruning."""
    axes = figure.subplots()
    points = [(point["epoch"], point["top1"]) for point in record["curve"]]
    for e in record["stages"]:  # after its epoch's evaluation
        points.insert(sum(epoch <= e["epoch"] for epoch, _ in points), (e["epoch"], e["after"]))
        axes.axvline(e["epoch"], color="#bbbbbb", lw=0.8, zorder=0)
        axes.text(e["epoch"], 1.01, f"{e['connections']:.0%} left", ha="center", transform=axes.get_xaxis_transform())
    axes.plot(*zip(*points, strict=True), color=OURS_COLOUR, lw=1.2, label="held-out top-1")
    random = [(e["epoch"], e["at_random"]) for e in record["stages"]]
    axes.plot(*zip(*random, strict=True), "x", color="#ee6677", label="had it removed connections at random")
    axes.set(xlabel="epoch", ylabel="held-out top-1")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.2)


def draw_connections(figure: Any, name: str) -> None:
    """Draw which layer reads which features of a network in weights/, as in the paper's figure 7(d)."""
    network = load_pretrained(name)
    values = layer_map([layer.per_channel for layer in connections_by_kind(network)["LGC"]])
    ends = np.cumsum(network.dense_blocks)[:-1].tolist()
    draw_layer_map(figure, values, ends, columns="dense layer that reads", rows="features of")


def docs(console: Console) -> None:
    """Write the tables and plots of all results."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for file in sorted(PRUNED.glob("*.json")):
        name, record = file.stem, read_results(file)
        start, end = START.format(name=name), END.format(name=name)
        text = replaced(text, start, end, text_of(record), document=DOCUMENT.name)
        plots = {
            "curve": (partial(draw_curve, record=record), (7, 3.2)),
            "connections": (partial(draw_connections, name=name), (5, 4.2)),
        }
        for what, (draw, size) in plots.items():
            write_figure(DOCUMENT.parent / "images" / f"{name}_{what}.png", draw, size)
        console.print(f"{name}: {DOCUMENT.name} and its plots")
    write_text(DOCUMENT, text)


def pruned(options: argparse.Namespace, console: Console) -> None:
    """Measure one run, or write the tables."""
    if options.docs:
        docs(console)
    elif options.run is None or options.name is None:
        raise UserError("give a run's directory and --name, or --docs")
    else:
        measure(options, console)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    parser.add_argument("run", type=Path, nargs="?", help="directory of the run")
    parser.add_argument("--name", help="of the results")
    parser.add_argument("--docs", action="store_true", help="write the tables in docs/results.md")
    return run(parser, pruned, arguments)


if __name__ == "__main__":
    sys.exit(main())
