"""Generate the tables of docs/status.md: every published figure next to what was measured here.

    python -m docs.status_tables [--results benchmarks/results/cpu_2_cores] [--check]

Published figures come from `networks/zoo.py` and `report/published.py`, costs from the networks themselves, timings
from the results files. With --check, write nothing and exit with status 1 if the page is not up to date.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.comparison import OURS
from benchmarks.markdown import figure, replaced, table
from benchmarks.options import add_results, run
from benchmarks.readme_table import existing_file
from benchmarks.results import read_results
from cdnv2_jax.commands.arguments import OneLineParser
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.family import MODELS, ModelEntry, network_cost
from cdnv2_jax.networks.network import Form
from cdnv2_jax.report.published import PUBLISHED

PAGE = Path(__file__).with_name("status.md")
DATA_SETS = {"imagenet": "ImageNet", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
NOT_RUN = "not run"
HALVED = ("condensenet_imagenet_74_c4", "condensenet_imagenet_74_c8")
"""Networks whose published sizes are those after the official conversion, which halves the classifier's inputs."""
OFFICIAL, FOLDED = "torch", "torch_compile_folded"


class OutOfDate(Exception):
    """The page differs from what its sources would generate."""


def errors() -> str:
    """Table of top-1 errors, with one row per network and data set that has a published one."""
    header = ["network", "data set", "top-1 error, published, %", "here", "source"]
    rows = []
    for name, entry in MODELS.items():
        if entry.published:
            for data_set, error in entry.published.top1_error.items():
                rows.append(
                    [label_of(name, entry), DATA_SETS[data_set], f"{error:.2f}", NOT_RUN, entry.published.source]
                )
    return table(header, rows)


def costs() -> str:
    """Table of published and counted FLOPs and parameters, with the usual number of classes."""
    header = ["network", "image", "FLOPs, published", "FLOPs, here", "parameters, published", "parameters, here"]
    rows = []
    for name, entry in MODELS.items():
        if entry.published:
            halved = name in HALVED
            form = Form(condensed=halved, halved_classifier=halved)
            cost = network_cost(entry.architecture, form, entry.image_size, entry.image_size)
            what = f"{label_of(name, entry)}{', classifier halved' if halved else ''}"
            published = entry.published
            cells = [published.flops, f"{cost.flops:,}", published.params, f"{cost.params:,}"]
            rows.append([what, f"{entry.image_size}²", *cells])
    return table(header, rows)


def detectors() -> str:
    """Table of mAP on COCO."""
    rows = []
    for detector, backbones in PUBLISHED.items():
        rows += [[detector, f"`{backbone}`", f"{value:.1f}", NOT_RUN] for backbone, value in backbones.items()]
    return table(["detector", "backbone", "mAP, published, %", "here"], rows)


def times(results: Path) -> str:
    """Table of milliseconds of the condensed networks, next to the official conversion in PyTorch."""
    record = read_results(results / "inference.json")
    peers = {OURS: "here", OFFICIAL: "official conversion, PyTorch", FOLDED: "its index folded, torch.compile"}
    header = ["network, condensed", "batch", *(f"{title}, ms" for title in peers.values())]
    rows = []
    for entry in record["entries"]:
        if entry["form"] == "condensed":
            medians = {peer: spread["median"] for peer, spread in entry["milliseconds"].items()}
            cells = [figure(medians[peer]) if peer in medians else "" for peer in peers]
            rows.append([f"`{entry['model']}`", str(entry["batch"]), *cells])
    machine = record["machine"]
    where = f"{machine['cores']} cores of an {machine['processor']}, float32, {machine['date']}"
    return f"{table(header, rows)}\n\nMedians on {where}."


def label_of(name: str, entry: ModelEntry) -> str:
    """Label of a network, marked if it is a reconstruction or a baseline."""
    other = "" if isinstance(entry.architecture, CondenseNetArchitecture) else ", baseline"
    return f"`{name}`{', reconstruction' if entry.reconstruction else other}"


def sections(results: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each generated section."""
    yield "errors", errors()
    yield "costs", costs()
    yield "detectors", detectors()
    yield "times", times(results)


def updated(page: str, results: Path) -> str:
    """Return the page with new tables; UserError if the comments around a section are missing."""
    for name, text in sections(results):
        start, end = f"<!-- {name}: python -m docs.status_tables -->", f"<!-- end of {name} -->"
        page = replaced(page, start, end, text, document="the page")
    return page


def status_tables(options: argparse.Namespace, console: Console) -> None:
    """Write or check the page."""
    text = options.page.read_text(encoding="utf-8")
    new = updated(text, options.results)
    if options.check:
        if new != text:
            raise OutOfDate
        return
    options.page.write_text(new, encoding="utf-8")
    console.print(f"written to {options.page}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = OneLineParser(
        prog="python -m docs.status_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_results(parser)
    parser.add_argument("--page", type=existing_file, default=PAGE, metavar="FILE", help="(default: docs/status.md)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is not up to date")
    try:
        return run(parser, status_tables, arguments)
    except OutOfDate:
        print(f"the page is not up to date: {parser.prog}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
