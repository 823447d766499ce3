"""Measure training and inference throughput on a GPU beside PyTorch, and against the GPU's memory bandwidth.

    python -m benchmarks.accelerator [--models cdnv2_a] [--work training condensed] [--budget 500] [--resume]

Ours: the training step and forward pass of real runs, in bfloat16. Peers: the tests' PyTorch twin with the same
weights, channels_last, under bfloat16 autocast, either eager ("torch") or compiled by inductor and replayed as CUDA
graphs ("torch_compile", with mode "reduce-overhead"; "torch_max_autotune", which takes minutes more to compile), then
with the official conversion's `index` folded away. Training is one step with nothing pruned; inference is fully pruned.
Each side runs in its own process, as each reserves the device's memory. Batches that do not fit are recorded as such.

Before it is timed, each side must agree with PyTorch in float64 on the CPU (`benchmarks/agreement.py`): the peers'
network in float32, with all of its bits, and every timed program in bfloat16, by logits or by gradients, running
statistics and losses of the first steps. One that does not is refused. `benchmarks.parity` compares ours in float32.

`share_of_floor`: the time of the least memory traffic (`benchmarks/floors.py`, two bytes a value) at the measured copy
rate, over the measured time. `share_of_program`: the same for the bytes that XLA counts in our compiled step ("bytes
accessed"); near 1, the program is memory-bound.

Everything ends within --budget seconds; call again with --resume for what is missing. Results are written after every
entry. `bash benchmarks/device.sh` runs this among other measurements, for a GPU machine without network.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.accelerator_side import SIDES, WORKS, Side
from benchmarks.floors import Floor, inference_floor, training_floor
from benchmarks.options import add_output, check_models, make_parser, positive, run
from benchmarks.problems import Work
from benchmarks.processes import printed_by
from benchmarks.results import Entry, read_results, results_file, write_results
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.family import model_entry

SCRIPT = "accelerator"
TRAINING_BATCHES = [256, 512, 1024, 2048]
INFERENCE_BATCHES = [1, 8, 64, 256, 1024]

GIVEN_ENVIRONMENT = dict(os.environ)
BFLOAT16_BYTES = 2


class Task(NamedTuple):
    """The measurements of one process."""

    work: Work
    model: str
    side: Side
    batches: list[int]


class Budget:
    """A time limit in seconds."""

    def __init__(self, seconds: float):
        self._end = time.perf_counter() + seconds

    def left(self) -> float:
        return self._end - time.perf_counter()


def tasks(options: argparse.Namespace, done: list[Entry]) -> Iterator[Task]:
    """Yield what remains to be measured; the sides of one comparison follow each other."""
    finished = {(e["work"], e["model"], e["side"], e["batch"]) for e in done}
    for work in options.work:
        batches = options.training_batches if work == "training" else options.inference_batches
        for name in options.models:
            for side in options.sides:
                left = [batch for batch in batches if (work, name, side, batch) not in finished]
                if left:
                    yield Task(work, name, side, left)


def measured(task: Task, seconds: float) -> Iterator[Entry]:
    """Run one process and yield its entries as they come."""
    arguments = [task.side, task.work, task.model, *map(str, task.batches)]
    what = {"work": task.work, "model": task.model, "side": task.side}
    for entry in printed_by("benchmarks.accelerator_side", arguments, seconds, environment(task.side)):
        yield what | entry


def environment(side: Side) -> dict[str, str]:
    """Keep JAX, which initialises the weights, off the accelerator in PyTorch's processes."""
    return {**GIVEN_ENVIRONMENT, **({} if side == "ours" else {"JAX_PLATFORMS": "cpu"})}


def with_shares(entry: Entry, rates: dict[str, float]) -> Entry:
    """Add the floor and the shares explained in the module's docstring to an entry."""
    if "milliseconds" not in entry:
        return entry
    seconds = entry["milliseconds"]["median"] / 1e3
    copied = rates["copied_bytes_per_second"]
    floor = floor_of(entry)
    shares = {"floor_bytes": floor.bytes, "share_of_floor": floor.bytes / copied / seconds}
    if entry.get("program_bytes"):
        shares["share_of_program"] = entry["program_bytes"] / copied / seconds
    return entry | shares


def floor_of(entry: Entry) -> Floor:
    """Return the floor of an entry's work in bfloat16."""
    model = model_entry(entry["model"])
    floor = training_floor if entry["work"] == "training" else inference_floor
    return floor(model.architecture, entry["batch"], model.image_size, BFLOAT16_BYTES)


def beside(a: Entry, b: Entry) -> bool:
    """Return whether two entries measure the same work."""
    return all(a[key] == b[key] for key in ("work", "model", "batch"))


def accelerator(options: argparse.Namespace, console: Console) -> None:
    """Measure, print and write the results."""
    check_models(options.models)
    # This process only identifies the device; the others need its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    path = results_file(options.output, SCRIPT)
    budget = Budget(options.budget)
    entries: list[Entry] = read_results(path)["entries"] if options.resume and path.is_file() else []
    rates = next(printed_by("benchmarks.accelerator_side", ["rates"], budget.left(), environment("ours")), None)
    if rates is None:
        raise UserError(f"the machine's rates could not be measured within --budget {options.budget} seconds")
    for task in list(tasks(options, entries)):
        if budget.left() <= 0:
            break
        console.print(f"{task.model}, {task.work}, {task.side} … ({budget.left():.0f} s left)")
        for entry in measured(task, budget.left()):
            entries.append(with_shares(entry, rates))
            write_results(path, SCRIPT, rates, entries)
    print_rates(entries, console)
    for task in tasks(options, entries):
        console.print(f"not measured: {task.model}, {task.work}, {task.side}, batches {task.batches}")
    console.print(f"written to {path}")


def print_rates(entries: list[Entry], console: Console) -> None:
    """Print one row per side and work."""
    table = Table(title="Images per second (ratio above 1: ours is faster)")
    table.add_column("work")
    for column in ("images/s", "ms", "ratio", "of floor", "of program"):
        table.add_column(column, justify="right")
    for entry in entries:
        what = f"{entry['model']} {entry['work']}, batch {entry['batch']}, {entry['side']}"
        table.add_row(what, *cells(entry, entries))
    console.print(table)


def cells(entry: Entry, entries: list[Entry]) -> tuple[str, ...]:
    """Return the cells of a row, or why it failed."""
    if "failed" in entry:
        return (entry["failed"],)
    ours = next((e for e in entries if beside(e, entry) and e["side"] == "ours" and "milliseconds" in e), entry)
    median = entry["milliseconds"]["median"]
    ratio = median / ours["milliseconds"]["median"]
    shares = (f"{entry[key]:.2f}" if key in entry else "" for key in ("share_of_floor", "share_of_program"))
    return f"{entry['images_per_second']:.0f}", f"{median:.1f}", f"{ratio:.2f}", *shares


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    add = parser.add_argument
    add("--models", nargs="+", default=["cdnv2_a", "cdnv2_c", "cdnv2_b"], metavar="NAME", help="models")
    add("--work", nargs="+", choices=WORKS, default=list(WORKS), help="what to measure, in this order")
    add("--sides", nargs="+", choices=SIDES, default=["ours", "torch_compile", "torch"], help="implementations")
    add("--training-batches", nargs="+", type=positive, default=TRAINING_BATCHES, metavar="N", help="images per step")
    add("--inference-batches", nargs="+", type=positive, default=INFERENCE_BATCHES, metavar="N", help="images per call")
    add("--budget", type=positive, default=500, metavar="SECONDS", help="when to stop (default: 500)")
    add("--resume", action="store_true", help="keep existing results and measure what is missing")
    add_output(parser)
    return run(parser, accelerator, arguments)


if __name__ == "__main__":
    sys.exit(main())
