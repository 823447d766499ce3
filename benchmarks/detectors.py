"""Count a whole detector's multiply-adds by part and its parameters, and time it on this machine.

    python -m benchmarks.detectors [--detectors retinanet] [--backbones cdnv2_c] [--canvas 800 1344] [--step-batch 2]

For each row of the paper's table, with random weights and 80 classes: multiply-adds of backbone, pyramid and heads for
one image on the canvas (closed forms, `detectors/cost.py`), the median time of detecting on one image, CondenseNetV2
condensed, and, with --step-batch, time and peak memory of a training step (masked, batch statistics frozen), in a
process of its own. No peer, no floor: what there is to see is how small a part of a detector its backbone is.
With --docs the table in docs/detection.md is made from the results.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from rich.console import Console

from benchmarks.markdown import replaced, table
from benchmarks.networks import example_images
from benchmarks.options import add_measuring, make_parser, positive, run
from benchmarks.results import Entry, results_file, write_results
from benchmarks.timing import Call, measure_in_turn, spread
from cdnv2_jax import condense, create_model, prune
from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.cost import cost_of
from cdnv2_jax.detectors.detector import PyramidDetector
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.networks.family import count_flops, model_entry
from cdnv2_jax.report.published import PUBLISHED, published_map

SCRIPT = "detectors"
CLASSES = 80
DOCS = Path(__file__).parents[1] / "docs" / "detection.md"
START, END = "<!-- costs: python -m benchmarks.detectors -->", "<!-- end of costs -->"


def detector_entry(kind: str, backbone: str, canvas: tuple[int, int], options: argparse.Namespace) -> Entry:
    """Count and, unless --costs-only is given, time one detector; the canvas is (height, width)."""
    network = create_model(backbone, rngs=nnx.Rngs(0))
    flops = count_flops(network, model_entry(backbone).image_size).flops
    if network.form_name == "masked":
        prune(network, network.condensation_stages)
        network = condense(network)
    detector = build_detector(settings(kind), network, rngs=nnx.Rngs(0))
    detector.eval()
    costs = cost_of(detector, *canvas)
    entry: Entry = {
        "detector": kind,
        "backbone": backbone,
        "canvas": list(canvas),
        "backbone_flops_224": flops,
        "multiply_adds": {part: cost.multiply_adds for part, cost in costs.items()},
        "params": {part: cost.params for part, cost in costs.items()},
        "published_map": published_map(kind, backbone),
    }
    if not options.costs_only:
        times = measure_in_turn({"detect": detecting(detector, canvas)}, rounds=options.rounds, seconds=options.seconds)
        entry["milliseconds"] = {name: spread(values)._asdict() for name, values in times.items()}
    if options.step_batch:
        numbers = map(str, (*canvas, options.step_batch))
        command = [sys.executable, "-m", "benchmarks.detector_step", kind, backbone, *numbers]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        entry["step"] = {"batch": options.step_batch, **json.loads(done.stdout)}
    return entry


def detecting(detector: PyramidDetector, canvas: tuple[int, int]) -> Call:
    """Return a compiled call that detects objects on one image that fills the canvas."""
    images = jnp.asarray(example_images(1, max(canvas))[:, : canvas[0], : canvas[1]])
    detector.canvases_filled = True
    graph, state = nnx.split(detector)
    detect = jax.jit(lambda state, images, sizes: nnx.merge(graph, state).detect(images, sizes).scores)
    return partial(detect, state, images, jnp.array([canvas]))


def settings(kind: str) -> DetectorSettings:
    """Return the settings of the paper's detectors."""
    return DetectorSettings(kind="retinanet" if kind == "retinanet" else "faster_rcnn", num_classes=CLASSES)


def detectors(options: argparse.Namespace, console: Console) -> None:
    """Measure, print and write the results."""
    path = results_file(options.output, SCRIPT)
    entries: list[Entry] = []
    for kind in options.detectors:
        for backbone in options.backbones or PUBLISHED[kind]:
            console.print(f"{kind} on {backbone} …")
            canvas = (options.canvas[0], options.canvas[1])
            entries.append(detector_entry(kind, backbone, canvas, options))
            write_results(path, SCRIPT, {}, entries)
    console.print(costs_table(entries))
    console.print(f"written to {path}")
    if options.docs:
        text = replaced(DOCS.read_text(encoding="utf-8"), START, END, costs_table(entries), document=DOCS.name)
        DOCS.write_text(text, encoding="utf-8")


def costs_table(entries: Sequence[Entry]) -> str:
    """Make the Markdown table, in billions of multiply-adds."""
    header = [
        "detector",
        "backbone",
        "backbone FLOPs, 224 px",
        "backbone here",
        "pyramid and heads",
        "all",
        "parameters",
        "seconds per image",
        "mAP, published",
    ]
    lines = []
    for e in entries:
        adds, params = e["multiply_adds"], e["params"]
        figures = (adds["body"] / 1e9, (adds["total"] - adds["body"]) / 1e9, adds["total"] / 1e9)
        lines.append(
            [
                *(e["detector"], e["backbone"], f"{e['backbone_flops_224'] / 1e6:.0f}M"),
                *(f"{figure:.1f}" for figure in figures),
                f"{params['total'] / 1e6:.1f}M",
                f"{e['milliseconds']['detect']['median'] / 1e3:.1f}" if "milliseconds" in e else "",
                str(e["published_map"] or ""),
            ]
        )
    return table(header, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    parser.add_argument("--detectors", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--backbones", nargs="*", metavar="NAME", help="(default: the paper's for each detector)")
    parser.add_argument("--canvas", nargs=2, type=positive, default=[800, 1344], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument(
        "--step-batch", type=int, default=0, metavar="N", help="images of a training step (default: none)"
    )
    parser.add_argument("--costs-only", action="store_true", help="only count, do not time")
    parser.add_argument("--docs", action="store_true", help="also write the table in docs/detection.md")
    add_measuring(parser)
    return run(parser, detectors, arguments)


if __name__ == "__main__":
    sys.exit(main())
