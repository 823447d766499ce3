"""Time inference over batch and image size.

    python -m benchmarks.sweep [--model cdnv2_a] [--batches 1 2 4 …] [--sizes 96 128 …] [--peers torch onnx_folded]

Ours, condensed and masked, beside the condensed peers of `benchmarks.inference`, measured as there: over batch sizes at
the model's image size, and over image sizes (side in pixels) at one batch size. `benchmarks.plots` draws the results.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from benchmarks.inference import Contenders
from benchmarks.machine import measured_rates
from benchmarks.options import add_measuring, make_parser, positive, run
from benchmarks.peers import PEERS, chosen
from benchmarks.results import Entry, results_file, write_results
from benchmarks.tables import print_comparison
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.family import model_entry

SCRIPT = "sweep"
OVER_BATCH, OVER_SIZE = "batch", "image_size"


def sweep(options: argparse.Namespace, console: Console) -> None:
    """Measure, print and write the results."""
    entry = model_entry(options.model)
    for size in options.sizes:
        try:
            entry.architecture.check_image(size, size)
        except UserError as error:
            raise UserError(f"--sizes: {error}") from error
    peers = chosen(options.peers, PEERS)
    path = results_file(options.output, SCRIPT)
    contenders = Contenders(options.model, "condensed", peers)
    points = [(OVER_BATCH, batch, entry.image_size) for batch in options.batches]
    points += [(OVER_SIZE, options.size_batch, size) for size in options.sizes]
    rates = measured_rates()
    entries: list[Entry] = []
    for over, batch, size in points:
        console.print(f"{options.model}, batch {batch}, {size} pixels …")
        measured = contenders.entry(batch, size, options.rounds, options.seconds)
        entries.append({"over": over, **measured})
        write_results(path, SCRIPT, rates, entries)
    for over, title in ((OVER_BATCH, "Over the batch"), (OVER_SIZE, "Over the image size")):
        print_comparison(title, [entry for entry in entries if entry["over"] == over], rates, console)
    console.print(f"written to {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    sizes = [96, 128, 160, 192, 224, 256, 320]
    parser.add_argument("--model", default="cdnv2_a", metavar="NAME", help="(default: cdnv2_a)")
    parser.add_argument(
        "--batches", nargs="*", type=positive, default=[1, 2, 4, 8, 16, 32], metavar="N", help="images per call"
    )
    parser.add_argument("--sizes", nargs="*", type=positive, default=sizes, metavar="N", help="sides, in pixels")
    parser.add_argument("--size-batch", type=positive, default=8, metavar="N", help="batch of --sizes (default: 8)")
    parser.add_argument(
        "--peers", nargs="*", default=["torch", "onnx_folded"], metavar="NAME", help=f"of {', '.join(PEERS)}"
    )
    add_measuring(parser)
    return run(parser, sweep, arguments)


if __name__ == "__main__":
    sys.exit(main())
