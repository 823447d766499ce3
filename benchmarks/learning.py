"""Learning curves of CondenseNet-50 on CIFAR-10 beside those of the official code.

    python -m benchmarks.learning collect RUNS --name cifar10_10000    # → benchmarks/results/learning/NAME.json
    python -m benchmarks.learning docs                                 # → docs/results.md and its plots

RUNS holds directories ours_SEED, runs of `cdnv2 train`, and official_SEED, each with the record.jsonl and record.npz of
`benchmarks/official_condensenet.py`. The learned group convolutions of both sides are
compared by the share of the connections with each earlier layer that they keep.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.markdown import replaced, table
from benchmarks.options import make_parser, run
from benchmarks.plots import write_figure
from benchmarks.results import COMMITTED, Entry, read_results
from cdnv2_jax import load
from cdnv2_jax.bounded_reading import read_json
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import write_text
from cdnv2_jax.report.connections import connections_by_kind, layer_map
from cdnv2_jax.report.learning import of_kind
from cdnv2_jax.training.records import read_metrics

SCRIPT = "learning"
LEARNING = COMMITTED / "learning"
DOCS = Path(__file__).parents[1] / "docs"
START, END = "<!-- {name}: python -m benchmarks.learning docs -->", "<!-- end of {name} -->"
SIDES = {"ours": "this project", "official": "official code"}
COLOURS = {"ours": "#228833", "official": "#ee6677"}


def collect(options: argparse.Namespace, console: Console) -> None:
    """Write what is left of the runs: figures per epoch, at the end, and of the connections."""
    runs = [
        read(folder) | {"side": side, "seed": int(folder.name.removeprefix(f"{side}_"))}
        for side, read in (("ours", read_ours), ("official", read_official))
        for folder in sorted(options.runs.glob(f"{side}_*"))
    ]
    if not runs:
        raise UserError(f"{options.runs} holds no directory ours_SEED or official_SEED")
    path = LEARNING / f"{options.name}.json"
    write_text(path, json.dumps({"runs": runs}, indent=1) + "\n")
    console.print(f"{path}: {len(runs)} runs")


def read_ours(folder: Path) -> Entry:
    """Read a run of ours; the loss of an epoch is the mean over its steps, as in the official code."""
    records, summary = read_metrics(folder), read_json(folder / "summary.json")
    steps = of_kind(records, "train")
    epochs, first = [], 0
    for found in of_kind(records, "eval"):
        losses = [step["loss"] for step in steps if first < step["step"] <= found["step"]]
        first = found["step"]
        epochs.append(
            {
                "epoch": found["epoch"],
                "loss": float(np.mean(losses)),
                "held_out_loss": found["loss"],
                "held_out_accuracy": found["top1"],
            }
        )
    layers = connections_by_kind(load(folder / "masked"))["LGC"]
    return {
        "epochs": epochs,
        "condensed_accuracy": summary["condensed"]["accuracy"],
        "kept": _rows(layer_map([layer.kept.mean(0) for layer in layers])),
    }


def read_official(folder: Path) -> Entry:
    """Read what `benchmarks/official_condensenet.py` has recorded."""
    lines = [json.loads(line) for line in (folder / "record.jsonl").read_text(encoding="utf-8").splitlines()]
    keys = ("epoch", "loss", "held_out_loss", "held_out_accuracy")
    with np.load(folder / "record.npz") as masks:
        kept = [masks[name].mean((0, 2, 3)) for name in masks.files]  # of [out, in, 1, 1], in the order of the layers
    return {
        "epochs": [{key: line[key] for key in keys} for line in lines if line["kind"] == "epoch"],
        "condensed_accuracy": lines[-1]["held_out_accuracy"],
        "kept": _rows(layer_map(kept)),
    }


def _rows(values: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in values]


def of_side(runs: Sequence[Entry], side: str) -> list[Entry]:
    """Return the runs of one side."""
    return [each for each in runs if each["side"] == side]


def kept_shares(entry: Entry) -> np.ndarray:
    """Return the share of connections that each layer (column) keeps with each source (row); NaN below the diagonal."""
    return np.array(entry["kept"], np.float64)


def outcome_table(runs: Sequence[Entry]) -> str:
    """Make the table of what the runs ended with."""
    header = ["", "seed", "top-1", "condensed", "held-out loss", "training loss", "agreement of connections"]
    rows = []
    for each in runs:
        last = each["epochs"][-1]
        rows.append(
            [
                *(SIDES[each["side"]], str(each["seed"]), f"{last['held_out_accuracy']:.2%}"),
                *(f"{each['condensed_accuracy']:.2%}", f"{last['held_out_loss']:.3f}", f"{last['loss']:.3f}"),
                f"{agreement(each, runs):.2f}",
            ]
        )
    return table(header, rows)


def agreement(entry: Entry, runs: Sequence[Entry]) -> float:
    """Return the mean correlation of a run's kept shares with those of the other side's runs."""
    mine = kept_shares(entry)
    present = ~np.isnan(mine)
    others = [kept_shares(each)[present] for each in runs if each["side"] != entry["side"]]
    return float(np.mean([np.corrcoef(mine[present], other)[0, 1] for other in others])) if others else float("nan")


def draw_curves(figure: Any, runs: Sequence[Entry]) -> None:
    """Draw held-out accuracy and training loss over the epochs, a line for each run."""
    panels = figure.subplots(1, 2)
    for axes, key, label in zip(
        panels, ("held_out_accuracy", "loss"), ("held-out top-1", "training loss"), strict=True
    ):
        for side, title in SIDES.items():
            for number, each in enumerate(of_side(runs, side)):
                points = each["epochs"]
                axes.plot(
                    [point["epoch"] for point in points],
                    [point[key] for point in points],
                    color=COLOURS[side],
                    lw=1.2,
                    ls=("-", "--", ":")[number % 3],
                    label=f"{title}, seed {each['seed']}",
                )
        last = max(point["epoch"] for each in runs for point in each["epochs"])
        for stage in range(1, 4):
            axes.axvline(last * stage / 6, color="#bbbbbb", lw=0.8, zorder=0)
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.2)
    panels[0].yaxis.set_major_formatter("{x:.0%}")
    panels[0].legend(fontsize="small")


def draw_kept(figure: Any, runs: Sequence[Entry]) -> None:
    """Draw the mean share of connections kept with each source, a heat map for each side."""
    sides = [side for side in SIDES if of_side(runs, side)]
    panels = np.atleast_1d(figure.subplots(1, len(sides), sharey=True))
    for axes, side in zip(panels, sides, strict=True):
        mean = np.mean([kept_shares(each) for each in of_side(runs, side)], axis=0)
        axes.imshow(mean, cmap="Oranges", vmin=0, vmax=1, interpolation="none")
        axes.set(title=SIDES[side], xlabel="layer that reads")
    panels[0].set_ylabel("features of (0: stem)")
    figure.colorbar(panels[0].images[0], ax=panels.tolist(), shrink=0.7, label="share of connections kept")


def sections() -> Iterator[tuple[str, list[Entry]]]:
    """Yield (name, runs) of all collected comparisons."""
    for file in sorted(LEARNING.glob("*.json")):
        yield file.stem, read_results(file)["runs"]


def docs(options: argparse.Namespace, console: Console) -> None:
    """Write tables and plots of all collected comparisons."""
    document = DOCS / "results.md"
    text = document.read_text(encoding="utf-8")
    for name, runs in sections():
        start, end = START.format(name=name), END.format(name=name)
        text = replaced(text, start, end, outcome_table(runs), document=document.name)
        for what, draw, height in (("curves", draw_curves, 3.4), ("kept", draw_kept, 3.8)):
            write_figure(DOCS / "images" / f"{name}_{what}.png", partial(draw, runs=runs), (8.5, height))
        console.print(f"{name}: {document.name}, {name}_curves.png, {name}_kept.png")
    write_text(document, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    verbs = parser.add_subparsers(required=True, metavar="collect|docs")
    collecting = verbs.add_parser("collect", help="read runs")
    collecting.add_argument("runs", type=Path, help="directory of the runs")
    collecting.add_argument("--name", required=True, help="of the comparison")
    collecting.set_defaults(script=collect)
    verbs.add_parser("docs", help="write tables and plots").set_defaults(script=docs)
    return run(parser, lambda options, console: options.script(options, console), arguments)


if __name__ == "__main__":
    sys.exit(main())
