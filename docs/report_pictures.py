"""Draw the pictures of docs/report.md from a finished run of configs/digits.py.

python docs/report_pictures.py runs/digits [--images docs/images]
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cdnv2_jax import load
from cdnv2_jax.files import replacing
from cdnv2_jax.report.connection_plots import draw_cuts, draw_group_strips, draw_layer_map
from cdnv2_jax.report.connections import connections_by_kind, layer_map
from cdnv2_jax.report.learning import of_kind
from cdnv2_jax.report.mistakes import confusion_matrix, draw_confusion, read_predictions
from cdnv2_jax.training.records import read_metrics

CLASSES = [str(digit) for digit in range(10)]


def pictures(workdir: Path) -> dict[str, tuple[Callable[[Any], None], float]]:
    """Map each picture's name to the function that draws it on a Matplotlib figure and its height in inches."""
    network = load(workdir / "condensed")
    layers = connections_by_kind(network)["LGC"]
    values = layer_map([layer.per_channel for layer in layers])
    ends, masks = np.cumsum(network.dense_blocks)[:-1].tolist(), [layer.kept for layer in layers]
    stages = of_kind(read_metrics(workdir), "stage")
    counts = confusion_matrix(read_predictions(workdir / "predictions.csv", len(CLASSES)), len(CLASSES))
    return {
        "layer_map": (
            lambda figure: draw_layer_map(figure, values, ends, columns="dense layer that reads", rows="features of"),
            4.2,
        ),
        "groups": (lambda figure: draw_group_strips(figure, masks, channels="channel that may be read"), 2.5),
        "cuts": (lambda figure: draw_cuts(figure, stages, ("LGC", "SFR") * len(layers)), 3),
        "confusion": (lambda figure: draw_confusion(figure, counts, CLASSES), 4.2),
    }


def main() -> None:
    """Write report_NAME.png for each picture."""
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/report.md.")
    parser.add_argument("workdir", type=Path, help="a finished run of configs/digits.py")
    parser.add_argument("--images", type=Path, default=Path("docs/images"), metavar="DIRECTORY")
    options = parser.parse_args()
    for name, (draw, height) in pictures(options.workdir).items():
        figure = Figure(figsize=(5, height), layout="constrained")
        draw(figure)
        with replacing(options.images / f"report_{name}.png") as scratch:
            figure.savefig(scratch, dpi=110)


if __name__ == "__main__":
    main()
