"""A detector's precision over recall, and its AP by class."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax.bounded_reading import read_json
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.files import write_text
from cdnv2_jax.report.mistakes import short_name
from cdnv2_jax.report.page import INK, Section, Table, drawing

RECALLS = np.linspace(0, 1, 101)
"""Recalls at which COCO's evaluation samples the precision."""

CURVES = {"0.50": ("#cc6677", "-"), "0.75": ("#4477aa", "--"), "0.50:0.95": ("#228833", ":")}
"""IoU threshold, or range of thresholds in steps of 0.05 → colour and style of the line."""


@dataclasses.dataclass(frozen=True)
class ClassPrecision:
    """AP of one class.

    Attributes:
      name: name of the class.
      objects: number of its objects in the evaluated images, without crowds.
      AP: AP over IoU 0.50 to 0.95, in [0, 1], or −1 without objects.
      AP50: the same at IoU 0.50.
      AP75: the same at IoU 0.75.
    """

    name: str
    objects: int
    AP: float
    AP50: float
    AP75: float


@dataclasses.dataclass(frozen=True)
class Precision:
    """Precision of a detector, as COCO's evaluation computes it.

    Attributes:
      curves: key of `CURVES` → precision in [0, 1] at each of `RECALLS`, the mean over the classes with objects;
        empty if there are no objects.
      classes: in the order of category ids.
    """

    curves: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    classes: Sequence[ClassPrecision] = ()


def write_precision(path: Path, precision: Precision) -> None:
    """Write a JSON object with the fields of `Precision`, atomically; UserError if that fails."""
    write_text(path, json.dumps(dataclasses.asdict(precision), allow_nan=False) + "\n")


def read_precision(path: Path) -> Precision:
    """Read the file of `write_precision`; UserError if it is damaged."""
    try:
        found = read_json(path)
        return _checked(found["curves"], found["classes"])
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        reason = one_line(error) if isinstance(error, ValueError) else "it is not as a run writes it"
        raise UserError(f"{path} cannot be read ({reason}): remove it to leave its section out") from error


def _checked(curves: Any, classes: Any) -> Precision:
    curves = {name: [float(value) for value in curves[name]] for name in CURVES} if curves else {}
    if any(len(curve) != len(RECALLS) for curve in curves.values()):
        raise ValueError(f"a curve has not {len(RECALLS)} points")
    classes = [
        ClassPrecision(str(one["name"]), int(one["objects"]), *(float(one[key]) for key in ("AP", "AP50", "AP75")))
        for one in classes
    ]
    values = [value for one in classes for value in (one.AP, one.AP50, one.AP75) if value != -1]
    if not all(0 <= value <= 1 for curve in (*curves.values(), values) for value in curve):
        raise ValueError("a precision is not between 0 and 1")
    return Precision(curves, classes)


def draw_precision(figure: Any, precision: Precision) -> None:
    """Draw the curves, each with its mean, which is the AP."""
    axes = figure.subplots()
    for name, (colour, style) in CURVES.items():
        curve = precision.curves[name]
        axes.plot(RECALLS, curve, color=colour, ls=style, label=f"IoU {name}: AP {np.mean(curve):.3f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.2)
    figure.legend(loc="outside upper center", ncols=1)


def draw_classes(figure: Any, classes: Sequence[ClassPrecision]) -> None:
    """Draw a horizontal bar for the AP of each class, from top to bottom, and a dot at its AP50."""
    axes = figure.subplots()
    rows = range(len(classes))
    bars = axes.barh(rows, [one.AP for one in classes], height=0.7, color="#4477aa", alpha=0.6, lw=0, label="AP")
    dots = axes.plot([one.AP50 for one in classes], rows, "o", color="#cc6677", ms=4, ls="none", label="AP50")
    for row, one in enumerate(classes):
        axes.text(1.03, row, f"{one.AP:.2f}", va="center", fontsize=9, color=INK)
    axes.set_yticks(rows, labels=[short_name(one.name) for one in classes], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="average precision", xlim=(0, 1.15), ylim=(len(classes) - 0.5, -0.5))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, axis="x")
    figure.legend(handles=[bars, *dots], loc="outside upper center", ncols=2)


MOST_CLASSES = 80
"""Of more classes, those with the highest and the lowest AP are shown, half each."""


def precision_section(precision: Precision) -> Section:
    """Make the section with precision over recall and the AP of each class."""
    text = [
        "Computed by pycocotools on the held-out images. A detection is correct if its IoU with an object of its class "
        "reaches the threshold. Precision is the fraction of detections that are correct, recall the fraction of "
        "objects that are found, as the score threshold falls. AP is the mean of a curve."
    ]
    if not precision.curves:
        return Section("precision", "Precision and recall", ["The held-out images have no objects."])
    known = sorted((one for one in precision.classes if one.AP >= 0), key=lambda one: -one.AP)
    if missing := len(precision.classes) - len(known):
        text.append(f"Classes without objects in these images: {missing}.")
    if len(known) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        text.append(
            f"Of {len(known)} classes, the {half} with the highest and the {half} with the lowest AP are shown."
        )
        known = [*known[:half], *known[-half:]]
    means = ", ".join(f"{np.mean(precision.curves[name]):.3f} at IoU {name}" for name in CURVES)
    rows = [(one.name, f"{one.objects:,}", *(f"{v:.3f}" for v in (one.AP, one.AP50, one.AP75))) for one in known]
    return Section(
        "precision",
        "Precision and recall",
        text,
        tables=[Table("Average precision of each class", ("class", "objects", "AP", "AP50", "AP75"), rows)],
        drawings=[
            drawing(
                lambda figure: draw_precision(figure, precision),
                key="precision-recall",
                height=4.0,
                label=f"Curves of precision over recall; their means are {means}.",
                caption="Precision over recall, mean over classes; zero beyond the highest recall that is reached.",
            ),
            drawing(
                lambda figure: draw_classes(figure, known),
                key="class-precision",
                height=1.2 + 0.26 * len(known),
                label=f"Bars of the average precision of {len(known)} classes, as in the table.",
                caption="Average precision by class, the best on top: the bar over IoU 0.50 to 0.95, the dot at 0.50.",
            ),
        ],
    )
