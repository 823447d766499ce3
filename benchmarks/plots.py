"""Plot results files: time per image over batch and image size, and ratios as bars.

    python -m benchmarks.plots [--results benchmarks/results/cpu_2_cores] [--images docs/images]

Lines and bars are medians; shades and whiskers span lowest to highest.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.comparison import OURS
from benchmarks.options import add_results, make_parser, run
from benchmarks.results import Entry, read_results
from benchmarks.sweep import OVER_BATCH, OVER_SIZE
from benchmarks.tables import title_of
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import replacing

SCRIPT = "plots"
COLOURS = {
    OURS: "#228833",
    "ours_masked": "#99cc99",
    "torch": "#ee6677",
    "torch_channels_last": "#aa3377",
    "torch_compile": "#ccbb44",
    "torch_compile_folded": "#998800",
    "onnx": "#66ccee",
    "onnx_folded": "#4477aa",
}


def draw_sweep(figure: Any, entries: list[Entry]) -> None:
    """Plot milliseconds per image over batch and image size, both axes logarithmic."""
    panels = figure.subplots(1, 2)
    for axes, over, label in zip(panels, (OVER_BATCH, OVER_SIZE), ("batch", "image side, pixels"), strict=True):
        points = sorted((e for e in entries if e["over"] == over), key=lambda e: e[over])
        for name in dict.fromkeys(name for e in points for name in e["milliseconds"]):
            _draw_line(axes, name, [e for e in points if name in e["milliseconds"]], over)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set(xlabel=label, ylabel="ms per image")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks([e[over] for e in points], labels=[str(e[over]) for e in points])
        axes.minorticks_off()
        axes.grid(alpha=0.2)
    panels[0].set_title(f"{entries[0]['model']} over the batch")
    panels[1].set_title("over the image size" + _fixed_batch(entries))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")


def _draw_line(axes: Any, name: str, points: list[Entry], over: str) -> None:
    places = [e[over] for e in points]
    lowest, median, highest = (
        [e["milliseconds"][name][key] / e["batch"] for e in points] for key in ("lowest", "median", "highest")
    )
    axes.plot(places, median, marker="o", ms=3, color=COLOURS.get(name), label=title_of(name))
    axes.fill_between(places, lowest, highest, color=COLOURS.get(name), alpha=0.15, lw=0)


def _fixed_batch(entries: list[Entry]) -> str:
    batches = {e["batch"] for e in entries if e["over"] == OVER_SIZE}
    return f", batch {batches.pop()}" if len(batches) == 1 else ""


def draw_ratios(figure: Any, groups: dict[str, Entry]) -> None:
    """Plot a group of bars per work: the time of the others relative to ours."""
    axes = figure.subplots()
    position, ticks = 0.0, []
    shown: set[str] = set()
    for entry in groups.values():
        ratios = entry["ratios"]
        ticks.append(position + (len(ratios) - 1) / 2)
        for name, ratio in ratios.items():
            whiskers = [[ratio["median"] - ratio["lowest"]], [ratio["highest"] - ratio["median"]]]
            label = None if name in shown else title_of(name)
            style = {"color": COLOURS.get(name), "ecolor": "#555555", "error_kw": {"lw": 0.8}}
            axes.barh(position, ratio["median"] - 1, left=1, xerr=whiskers, label=label, **style)
            shown.add(name)
            position += 1
        position += 1
    axes.axvline(1, color="black", lw=1)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("time, ours = 1 (to the right: slower than ours)")
    axes.set_yticks(ticks, labels=list(groups))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.2)
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")


def ratio_groups(results: Path) -> dict[str, Entry]:
    """Collect the existing entries of condensed inference and of training, by title."""
    groups: dict[str, Entry] = {}
    for script, form in (("inference", "condensed"), ("training", "nothing pruned")):
        path = results / f"{script}.json"
        for e in read_results(path)["entries"] if path.is_file() else []:
            if e["form"] == form and e["ratios"]:
                what = "" if script == "inference" else " training"
                groups[f"{e['model']}{what},\nbatch {e['batch']}"] = e
    return groups


def write_figure(path: Path, draw: Callable[[Any], None], size: tuple[float, float], dpi: int = 110) -> None:
    """Write what `draw` draws on a Matplotlib figure of `size`, (width, height) in inches, to a PNG file."""
    # The object interface needs no display and leaves pyplot's global state alone.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    with replacing(path) as file:
        figure.savefig(file, dpi=dpi)


def plots(options: argparse.Namespace, console: Console) -> None:
    """Plot what there are results for."""
    figures: dict[str, tuple[Callable[[Any], None], tuple[float, float]]] = {}
    sweep = options.results / "sweep.json"
    if sweep.is_file():
        figures["time_per_image"] = (partial(draw_sweep, entries=read_results(sweep)["entries"]), (9, 4.2))
    groups = ratio_groups(options.results)
    if groups:
        bars = sum(len(entry["ratios"]) + 1 for entry in groups.values())
        figures["ratios"] = (partial(draw_ratios, groups=groups), (8, 1.4 + 0.22 * bars))
    if not figures:
        raise UserError(f"--results: {options.results} holds no results of inference, training or sweep")
    for name, (draw, size) in figures.items():
        path = options.images / f"{name}.png"
        write_figure(path, draw, size, dpi=130)
        console.print(f"written to {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(SCRIPT, __doc__)
    add_results(parser)
    parser.add_argument(
        "--images", type=Path, default=Path("docs/images"), metavar="DIRECTORY", help="of the PNG files"
    )
    return run(parser, plots, arguments)


if __name__ == "__main__":
    sys.exit(main())
