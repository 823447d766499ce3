"""Time our ONNX models in ONNX Runtime beside PyTorch's exports of the official conversion.

    python -m benchmarks.exported [--models cdnv2_a cdnv2_c] [--batches 1 32] [--docs]

Ours: `classifier_to_onnx` of the condensed network. Peers, with the same random, fully pruned weights, exported by
PyTorch: onnx, the official conversion as it is, with the dense 0/1 product `index` in each SFR; onnx_folded, with each
`index` folded into one dense 1×1 convolution, as a careful user would do. All run on the CPU with all optimisations and
one thread per core. A model whose logits differ from our network's in JAX is refused.

Timing, ratios and floors are those of `benchmarks.inference`. --docs writes the table in docs/export.md.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.comparison import OURS, admitted, compared
from benchmarks.floors import Floor, floor_milliseconds, inference_floor
from benchmarks.machine import describe, measured_rates
from benchmarks.markdown import figure, machine_line, replaced, table
from benchmarks.networks import example_images, nchw, pruned_pair
from benchmarks.options import add_measuring, check_models, make_parser, positive, run
from benchmarks.peers import PEERS
from benchmarks.peers.onnx_runtime import session
from benchmarks.peers.peer import Loaded, check_same
from benchmarks.results import Entry, results_file, write_results
from benchmarks.tables import extremes, print_comparison
from benchmarks.timing import Call
from cdnv2_jax import condense
from cdnv2_jax.errors import UserError
from cdnv2_jax.export.onnx_file import classifier_to_onnx
from cdnv2_jax.networks.family import model_entry
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.programs import compiled_forward

SCRIPT = "exported"
OTHERS = {"onnx": "PyTorch's export", "onnx_folded": "PyTorch's export, index folded"}
"""Peer → its title in the document."""
DOCS = Path(__file__).parents[1] / "docs" / "export.md"
START, END = "<!-- exported: python -m benchmarks.exported -->", "<!-- end of exported -->"


def our_model(network: Network, size: int) -> Loaded:
    """The network as our export runs in ONNX Runtime."""
    ours = session(classifier_to_onnx(network, image_size=size).SerializeToString())

    def load(images: np.ndarray) -> Call:
        inputs = nchw(images)
        return lambda: ours.run(None, {"images": inputs})[0]

    return load


def entries_of(name: str, batches: Sequence[int], rounds: int, seconds: float) -> Iterator[Entry]:
    """Yield one entry per batch; every model is exported once."""
    masked, twin = pruned_pair(name)
    network, size = condense(masked), model_entry(name).image_size
    ours, in_jax = our_model(network, size), compiled_forward(network)
    others: dict[str, Callable[[], Loaded]] = {
        key: cache(partial(PEERS[key].load, twin, "condensed")) for key in OTHERS
    }
    for batch in batches:
        images = example_images(batch, size)
        calls = {OURS: ours(images)}
        expected = np.asarray(in_jax(images))
        check_same(expected, calls[OURS]())
        peers, refused = admitted({key: partial(_call, load, images) for key, load in others.items()}, expected)
        what = {"model": name, "form": "condensed", "batch": batch, "image_size": size}
        floor = inference_floor(network.architecture, batch, size)
        yield what | compared(calls | peers, refused, floor, rounds, seconds)


def _call(load: Callable[[], Loaded], images: np.ndarray) -> Call:
    return load()(images)


def exported(options: argparse.Namespace, console: Console) -> None:
    """Measure, print and write the results."""
    check_models(options.models)
    path = results_file(options.output, SCRIPT)
    if options.docs:
        in_docs("")  # fail before measuring
    rates, entries = measured_rates(), []
    for name in options.models:
        console.print(f"{name} …")
        for entry in entries_of(name, options.batches, options.rounds, options.seconds):
            entries.append(entry)
            write_results(path, SCRIPT, rates, entries)
    print_comparison("Exported, in ONNX Runtime", entries, rates, console)
    console.print(f"written to {path}")
    if options.docs:
        text = in_docs(f"{machine_line(describe())}\n\n{times_table(entries, rates)}")
        DOCS.write_text(text, encoding="utf-8")
        console.print(f"written to {DOCS}")


def in_docs(contents: str) -> str:
    """Return the document's text with `contents` as its table; UserError when there is no such document."""
    if not DOCS.is_file():
        raise UserError(f"--docs: there is no {DOCS}")
    return replaced(DOCS.read_text(encoding="utf-8"), START, END, contents, document=str(DOCS))


def times_table(entries: Sequence[Entry], rates: dict[str, float]) -> str:
    """Make the Markdown table of milliseconds; refused peers have empty cells."""
    titles = list(OTHERS.values())
    header = ["condensed network", "batch", "ours", *titles, *(f"{title} ÷ ours" for title in titles), "floor"]
    lines = []
    for entry in entries:
        medians = {key: figure(spread["median"]) for key, spread in entry["milliseconds"].items()}
        ratios = {key: f"{ratio['median']:.2f} ({extremes(ratio)})" for key, ratio in entry["ratios"].items()}
        floor = floor_milliseconds(Floor(entry["multiply_adds"], entry["floor_bytes"]), rates)
        lines.append(
            [
                *(entry["model"], str(entry["batch"])),
                *(medians.get(key, "") for key in (OURS, *OTHERS)),
                *(ratios.get(key, "") for key in OTHERS),
                figure(max(floor)),
            ]
        )
    return table(header, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    parser.add_argument("--models", nargs="+", default=["cdnv2_a", "cdnv2_b", "cdnv2_c"], metavar="NAME", help="models")
    parser.add_argument("--batches", nargs="+", type=positive, default=[1, 32], metavar="N", help="images per call")
    parser.add_argument("--docs", action="store_true", help="also write the table in docs/export.md")
    add_measuring(parser)
    return run(parser, exported, arguments)


if __name__ == "__main__":
    sys.exit(main())
