"""Learning curves: what is drawn of which records; accuracy in per cent."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cdnv2_jax.report.learning import draw_learning_curves
from tests.tables import table

TRAIN = {"kind": "train", "step": 5, "loss": 2.0, "accuracy": 0.3, "sparsity": 0.0}
EVAL = {"kind": "eval", "step": 10, "epoch": 1, "loss": 1.0, "top1": 0.5}
LIVE = {"live_loss": 0.5, "live_top1": 0.75}
DETECTOR = {"kind": "eval", "step": 10, "epoch": 1, "AP": 0.25, "live_AP": 0.5}
AVERAGED = "held-out images, averaged weights (EMA)"


@table(
    "evaluation, loss, score",
    {
        "one network": (EVAL, {"held-out images": [1.0]}, {"held-out images": [50.0]}),
        "averaged and live weights": (
            {**EVAL, **LIVE},
            {AVERAGED: [1.0], "held-out images, live weights": [0.5]},
            {AVERAGED: [50.0], "held-out images, live weights": [75.0]},
        ),
        "a detector, whose evaluation has no loss": (
            DETECTOR,
            {},
            {AVERAGED: [0.25], "held-out images, live weights": [0.5]},
        ),
    },
)
def test_curves_of_held_out_images(
    evaluation: dict[str, Any], loss: dict[str, list[float]], score: dict[str, list[float]]
) -> None:
    figure = Figure()
    draw_learning_curves(figure, [TRAIN, evaluation])
    for axes, expected in zip(figure.axes, (loss, score), strict=True):
        drawn = {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
        drawn.pop("training batches", None)
        assert drawn == expected
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["training batches", *score]
