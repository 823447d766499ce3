"""Compare our networks on this device with PyTorch in float64 on the CPU, in each precision of products.

    python -m benchmarks.parity [--models cdnv2_a] [--work condensed masked training] [--emulated]

Ours and, beside it, the tests' PyTorch twin, each in float32 with all bits ("highest"), in float32 with the back end's
default (TF32 on NVIDIA GPUs) and in bfloat16. Inference is compared by logits, fully pruned; training by gradients,
running statistics and losses of the first steps. Differences and tolerances: `benchmarks/agreement.py`. The exit status
is 1 if something differs by more. Results are written after each comparison.

--emulated needs no accelerator: PyTorch on the CPU, with the operands of products rounded to TF32 or bfloat16. From its
results come the tolerances.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

import jax
import jax.numpy as jnp
import torch
from rich.console import Console

from benchmarks.agreement import Precision, Results, check, differences
from benchmarks.options import add_output, check_models, make_parser, positive, run
from benchmarks.peers.torch_compiler import tf32
from benchmarks.problems import MOST_IMAGES, Problem, Work, in_jax, in_torch
from benchmarks.results import Entry, read_results, results_file, write_results
from benchmarks.rounding import RoundedProducts
from cdnv2_jax.errors import RunFailure, one_line

SCRIPT = "parity"
WORKS: tuple[Work, ...] = ("condensed", "masked", "training")
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Compute = Callable[[Problem, Precision], Results]


def ours(problem: Problem, precision: Precision) -> Results:
    """Compute our results on JAX's default device."""
    if precision == "bfloat16":
        return in_jax(problem, jnp.bfloat16)
    with jax.default_matmul_precision(precision):
        return in_jax(problem)


def twins(problem: Problem, precision: Precision) -> Results:
    """Compute the twin's results on the GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tf32(precision == "default"):
        return in_torch(problem, device, bfloat16=precision == "bfloat16")


def emulated(problem: Problem, precision: Precision) -> Results:
    """Compute the twin's results on the CPU as if products were rounded there."""
    if precision == "highest":
        return in_torch(problem, "cpu")
    with RoundedProducts("tf32" if precision == "default" else "bfloat16"):
        return in_torch(problem, "cpu")


def compared(problem: Problem, side: str, compute: Compute, precision: Precision) -> Entry:
    """Compare one side in one precision: its differences and, if they are too large or it cannot run, why it failed."""
    entry: Entry = {"model": problem.name, "work": problem.work, "side": side, "precision": precision}
    try:
        found = compute(problem, precision)
        entry["differences"] = differences(found, problem.expected)
        check(found, problem.expected, precision)
    # What a framework cannot do is a result, too; the other comparisons go on.
    except Exception as error:
        entry["failed"] = one_line(error)
    return entry


def comparisons(options: argparse.Namespace, done: list[Entry]) -> Iterator[Entry]:
    """Compare what is not done yet, ours first."""
    sides: dict[str, Compute] = {"emulated": emulated} if options.emulated else {"ours": ours, "torch": twins}
    finished = {(e["model"], e["work"], e["side"], e["precision"]) for e in done}
    for name, work in itertools.product(options.models, options.work):
        left: list[tuple[str, Precision]] = [
            (s, p) for s in sides for p in PRECISIONS if (name, work, s, p) not in finished
        ]
        problem = Problem(work, name, options.images, options.size) if left else None
        for side, precision in left:
            assert problem is not None
            yield compared(problem, side, sides[side], precision)


def parity(options: argparse.Namespace, console: Console) -> None:
    """Compare, print and write the results."""
    check_models(options.models)
    # JAX would reserve the memory that PyTorch needs.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    path = results_file(options.output, SCRIPT)
    entries: list[Entry] = read_results(path)["entries"] if options.resume and path.is_file() else []
    for entry in comparisons(options, entries):
        entries.append(entry)
        write_results(path, SCRIPT, {}, entries)
        console.print(line(entry))
    console.print(f"written to {path}")
    failed = sum("failed" in entry for entry in entries)
    if failed:
        raise RunFailure(f"{failed} of {len(entries)} comparisons failed: their reasons are in {path}")


def line(entry: Entry) -> str:
    """Format an entry: what was compared, its differences, and why it failed."""
    what = f"{entry['model']} {entry['work']}, {entry['side']}, {entry['precision']}:"
    found = [f"{quantity} {value:.1e}" for quantity, value in entry.get("differences", {}).items()]
    return " ".join([what, ", ".join(found), f"FAILED: {entry['failed']}" if "failed" in entry else ""]).rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    add = parser.add_argument
    add("--models", nargs="+", default=["cdnv2_a", "cdnv2_c"], metavar="NAME", help="models")
    add("--work", nargs="+", choices=WORKS, default=list(WORKS), help="what to compare, in this order")
    add("--images", type=positive, default=MOST_IMAGES, metavar="N", help=f"(default: {MOST_IMAGES})")
    add("--size", type=positive, metavar="PIXELS", help="side of the images (default: the model's)")
    add("--emulated", action="store_true", help="PyTorch on the CPU with rounded operands")
    add("--resume", action="store_true", help="keep existing results and compare what is missing")
    add_output(parser)
    return run(parser, parity, arguments)


if __name__ == "__main__":
    sys.exit(main())
