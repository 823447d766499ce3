"""What pruning did to a trained network: its accuracy around each stage, and its time masked and condensed.

    python -m benchmarks.pruned RUN --name cifar10_50000    # → benchmarks/results/pruned/NAME.json
    python -m benchmarks.pruned --docs                      # → docs/results.md

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
from benchmarks.results import COMMITTED, Entry, read_results
from benchmarks.timing import measure_in_turn, spread
from cdnv2_jax import condense, load, prune
from cdnv2_jax.bounded_reading import read_json
from cdnv2_jax.commands.read_config import check_config, make_experiment
from cdnv2_jax.devices import Devices
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import replacing, write_text
from cdnv2_jax.layers.learned import ConnectionMask, masked_convs
from cdnv2_jax.networks.network import Network
from cdnv2_jax.pruning.prune import pruning_steps, sparsity
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


def stage_entries(workdir: Path, console: Console) -> list[Entry]:
    """Evaluate around each stage of a run."""
    experiment = make_experiment(check_config(read_json(workdir / CONFIG_FILE)), Devices.all())
    experiment.prepare_training()
    top1 = {found["step"]: found["top1"] for found in of_kind(read_metrics(workdir), "eval")}
    entries = []
    with RunCheckpoints(workdir / CHECKPOINTS, keep=1000) as checkpoints:
        for stage, step in pruning_steps(experiment.total_steps, experiment.stages + 1).items():
            if not (workdir / CHECKPOINTS / str(step)).is_dir():
                raise UserError(f"{workdir} kept no checkpoint of step {step}, before which stage {stage} was due")
            state, _ = checkpoints.restore(experiment.state_shapes(), experiment.devices, step)

            def accuracy(change: Callable[[Network], None], state: Any = state) -> tuple[float, float]:
                network = live_model(experiment.graph, state)
                change(network)
                return experiment.evaluate(network).accuracy, 1 - float(sparsity(network))

            before, _ = accuracy(partial(prune, stage=stage - 1))
            after, connections = accuracy(partial(prune, stage=stage))
            random, _ = accuracy(partial(prune_at_random, stage=stage))
            entries.append(
                {
                    "stage": stage,
                    "connections": connections,
                    "before": before,
                    "after": after,
                    "at_random": random,
                    "an_epoch_later": top1[step + experiment.steps_per_epoch],
                }
            )
            console.print(f"stage {stage}: {before:.2%}, pruned {after:.2%}, at random {random:.2%}")
    return entries


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
    record = {
        "stages": stage_entries(options.run, console),
        "times": times(load(options.run / "masked"), side),
        "machine": describe(),
    }
    path = PRUNED / f"{options.name}.json"
    with replacing(path) as file:
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
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


def docs(console: Console) -> None:
    """Write the tables of all results."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for file in sorted(PRUNED.glob("*.json")):
        start, end = START.format(name=file.stem), END.format(name=file.stem)
        text = replaced(text, start, end, text_of(read_results(file)), document=DOCUMENT.name)
        console.print(f"{file.stem}: {DOCUMENT.name}")
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
