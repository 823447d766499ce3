"""Draw the pictures of docs/concepts.md from a small network: its masks, kernels and schedule.

    python -m docs.drawings [--images docs/images]

The weights are random with seed 0, so the pictures are reproducible. They show the actual results of `prune` and
`condense`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.options import run
from cdnv2_jax import condense, create_model, prune
from cdnv2_jax.commands.arguments import OneLineParser
from cdnv2_jax.files import replacing
from cdnv2_jax.layers.condensed import CondensedGroupConv
from cdnv2_jax.layers.learned import MaskedConv
from cdnv2_jax.pruning.prune import due_stage, importance

IMAGES = Path(__file__).with_name("images")
LAYER = 2
"""Index of the dense layer shown: the third, which reads 32 channels and adds 8."""
KEPT, GONE, LINE = "#4477aa", "#cc6677", "#999999"
# An opaque background works on light and dark pages. The fixed salt makes the files reproducible.
STYLE: Any = {"svg.hashsalt": "cdnv2_jax", "svg.fonttype": "none", "figure.facecolor": "white", "font.size": 9}


def small_network() -> Any:
    """Create four dense layers with growth rate 8, four groups and condensation factor 4."""
    sizes = {"stages": (4,), "growth": (8,), "groups": 4, "condensation_factor": 4}
    model = create_model("cdnv2_cifar_110", rngs=nnx.Rngs(0), **sizes)
    model.eval()
    return model


def draw_connections() -> Figure:
    """Draw the masks of LGC and SFR in one layer, stage by stage: darker is more important, white is removed."""
    model = small_network()
    stages = model.condensation_stages
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    rows = figure.subplots(stages + 1, 2, sharex=True)
    for stage, axes in enumerate(rows):
        prune(model, stage)
        layer = list(model.dense_layers())[LAYER]
        for axis, conv in zip(axes, (layer.lgc, layer.sfr), strict=True):
            weights = np.asarray(importance(conv.connection_weights()))
            mask = np.asarray(conv.mask[...])
            show(axis, np.where(mask, weights, np.nan))
            axis.set_title(f"{int(mask.sum())} of {mask.size} connections", fontsize=8, loc="right", pad=2)
        axes[0].set_ylabel(f"stage {stage}\ngroup")
    for axis, title in zip(rows[0], ("LGC: which channels each group reads", "SFR: which each updates"), strict=True):
        axis.set_title(title, loc="left", fontsize=9, pad=2)
        rows[-1][0].set_xlabel("channel of the features so far")
        rows[-1][1].set_xlabel("channel of the features so far")
    return figure


def draw_condensing() -> Figure:
    """Draw the kernel of the LGC: unpruned, masked after the last stage, and condensed."""
    model = small_network()
    whole = kernel(model, masked=False)
    prune(model, model.condensation_stages)
    masked = kernel(model, masked=True)
    layer = list(condense(model).dense_layers())[LAYER]
    assert isinstance(layer.lgc, CondensedGroupConv)
    groups, kept, outputs = layer.lgc.kernel.shape
    blocks = np.full((groups * outputs, groups * kept), np.nan)
    for group, block in enumerate(np.abs(np.asarray(layer.lgc.kernel[...]))):
        blocks[group * outputs : (group + 1) * outputs, group * kept : (group + 1) * kept] = block.T
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    pictures = {
        "dense: 32 × 32": (whole, "input channel"),
        "masked: a quarter is left": (masked, "input channel"),
        "condensed: gathered, 4 groups": (blocks, "gathered input, group by group"),
    }
    for axis, (title, (values, label)) in zip(figure.subplots(1, 3), pictures.items(), strict=True):
        show(axis, values)
        axis.set(title=f"{title}\n{np.isfinite(values).sum()} weights", xlabel=label)
        axis.set_ylabel("output, sorted by group")
        for edge in range(outputs, groups * outputs, outputs):
            axis.axhline(edge - 0.5, color=LINE, lw=0.6)
    return figure


def kernel(model: Any, *, masked: bool) -> np.ndarray:
    """Absolute weights of the layer's LGC, [out, in], with outputs sorted by group and NaN for removed weights."""
    conv = list(model.dense_layers())[LAYER].lgc
    assert isinstance(conv, MaskedConv)
    weights = np.abs(np.asarray(conv.connection_weights()))  # [G, in, out / G]
    if masked:
        weights = np.where(np.asarray(conv.mask[...])[:, :, None], weights, np.nan)
    return weights.transpose(0, 2, 1).reshape(-1, weights.shape[1])


def draw_schedule() -> Figure:
    """Draw the percentage of kept connections over the training, for both condensation factors in use."""
    progress = np.linspace(0, 1, 1001)
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axis = figure.subplots()
    for factor, colour in ((4, KEPT), (8, GONE)):
        kept = [100 * (1 - due_stage(float(p), factor) / factor) for p in progress]
        axis.step(100 * progress, kept, where="post", color=colour, label=f"{factor - 1} stages, 1/{factor} is left")
    rate = 50 * (1 + np.cos(np.pi * progress))
    axis.plot(100 * progress, rate, color=LINE, ls="--", lw=1, label="learning rate, half a cosine")
    axis.axvline(50, color=LINE, lw=0.6)
    axis.set(xlabel="per cent of all steps", ylabel="per cent kept", xlim=(0, 100), ylim=(0, 104))
    axis.legend(loc="upper right", frameon=False)
    return figure


def show(axis: Any, values: np.ndarray) -> None:
    """Show a matrix, darker for larger values and blank for NaN; the smallest value is still visible."""
    largest = np.nanmax(values)
    axis.imshow(values, cmap="Blues", vmin=-0.2 * largest, vmax=largest, aspect="auto", interpolation="none")
    axis.set_yticks([])
    axis.tick_params(length=2, labelsize=7)


DRAWINGS = {
    "connections.svg": draw_connections,
    "condensing.svg": draw_condensing,
    "schedule.svg": draw_schedule,
}
"""File name → function that draws it."""


def drawings(options: argparse.Namespace, console: Console) -> None:
    """Write all drawings."""
    with matplotlib.rc_context(STYLE):
        for name, draw in DRAWINGS.items():
            with replacing(options.images / name) as file:
                draw().savefig(file, format="svg", metadata={"Date": None})
            console.print(f"written to {options.images / name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = OneLineParser(
        prog="python -m docs.drawings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--images", type=Path, default=IMAGES, metavar="DIRECTORY", help="(default: docs/images)")
    return run(parser, drawings, arguments)


if __name__ == "__main__":
    sys.exit(main())
