"""The confusion matrix as a picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cdnv2_jax.report.inline_svg import INK

RIGHT, WRONG = "#228833", "#d9480f"
NUMBERED = 12
"""Up to so many classes, counts stand in their cells."""

LONGEST_NAME = 14


def draw_confusion(figure: Any, counts: np.ndarray, names: Sequence[str]) -> None:
    """Rows: what images show; columns: what they were taken for. Stronger: a larger share of the row.

    Args:
      counts: [classes, classes], see `confusion_matrix`.
      names: of the classes.
    """
    from matplotlib.colors import to_rgb

    axes = figure.subplots()
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # Mistakes are rare and few: the square root lets them be seen.
    pixels = np.zeros((classes, classes, 4))
    pixels[..., :3] = np.where(np.eye(classes, dtype=bool)[..., None], to_rgb(RIGHT), to_rgb(WRONG))
    pixels[..., 3] = 0.75 * np.sqrt(shares)
    axes.imshow(pixels, interpolation="none")
    if classes <= NUMBERED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=INK)
    labels = [short_name(name) for name in names]
    small = {"fontsize": 8 if classes <= 20 else 6}
    sideways = {"rotation": 90} if max(map(len, labels)) > 2 else {}
    axes.set_xticks(range(classes), labels=labels, **small, **sideways)
    axes.set_yticks(range(classes), labels=labels, **small)
    axes.set(xlabel="taken for", ylabel="shown")


def short_name(name: str) -> str:
    """On one line, cut where it is too long for an axis."""
    line = " ".join(name.split())
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"
