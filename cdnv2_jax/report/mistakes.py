"""A classifier's errors: confusion matrix, most confident mistakes, per-class and per-image tables."""

import csv
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.files import replacing
from cdnv2_jax.report.page import INK, SMALL, Photograph, Section, Table, drawing, image_uri
from cdnv2_jax.terminal import escaped


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of a classifier on a data set; all arrays have one entry per image.

    Attributes:
      images: int64, positions in the data set.
      labels: int64, true classes.
      predicted: int64, predicted classes.
      probabilities: float64 in [0, 1], of the predicted classes.
    """

    images: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def from_logits(cls, logits: np.ndarray, labels: np.ndarray, images: np.ndarray) -> "Predictions":
        """Take the largest of `logits` [n, classes] and its softmax probability; the first of equal ones wins."""
        with np.errstate(invalid="ignore"):  # NaN logits have no probabilities
            probabilities = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1, dtype=np.float64)
        images, labels = np.asarray(images, np.int64), np.asarray(labels, np.int64)
        return cls(images, labels, logits.argmax(1), np.nan_to_num(probabilities, nan=0.0))

    @property
    def mistakes(self) -> np.ndarray:
        """Indices into these arrays where label and prediction differ, the most confident first."""
        wrong = np.flatnonzero(self.labels != self.predicted)
        return wrong[np.argsort(-self.probabilities[wrong], kind="stable")]


def confusion_matrix(predictions: Predictions, classes: int) -> np.ndarray:
    """Count images by true class (row) and predicted class (column): int64 [classes, classes]."""
    pairs = predictions.labels * classes + predictions.predicted
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def most_confused(predictions: Predictions, most: int) -> list[tuple[int, int, int]]:
    """Return (label, predicted, images) of the most frequently confused pairs of classes, at most `most`."""
    wrong = predictions.mistakes
    pairs = np.stack([predictions.labels[wrong], predictions.predicted[wrong]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [(int(found[i, 0]), int(found[i, 1]), int(counts[i])) for i in order]


RIGHT, WRONG = "#228833", "#d9480f"
NUMBERED = 12
"""Up to this number of classes, cells show their counts."""

LONGEST_NAME = 14


def draw_confusion(figure: Any, counts: np.ndarray, names: Sequence[str]) -> None:
    """Draw a confusion matrix: rows are true classes, columns predicted ones, colour is the fraction of the row.

    Args:
      counts: [classes, classes], see `confusion_matrix`.
      names: class names.
    """
    from matplotlib.colors import to_rgb

    axes = figure.subplots()
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # The square root makes rare mistakes visible.
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
    axes.set(xlabel="predicted class", ylabel="true class")


def short_name(name: str) -> str:
    """Shorten a class name to one line that fits an axis."""
    line = escaped(" ".join(name[:1000].split()))
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


def write_per_class(file: Path, names: Sequence[str], figures: Sequence[tuple[int, float, float]]) -> None:
    """Write a CSV table: class, images, top1, top5 (in [0, 1], empty for classes without images).

    Args:
      file: path of the table.
      names: class names, by label.
      figures: (images, top-1, top-5) of each class, as `Evaluation.per_class` gives them.
    """
    # Names of folders may hold bytes that are not UTF-8.
    with (
        replacing(file) as scratch,
        scratch.open("w", newline="", errors="backslashreplace", encoding="utf-8") as table,
    ):
        writer = csv.writer(table)
        writer.writerow(["class", "images", "top1", "top5"])
        for name, (images, top1, top5) in zip(names, figures, strict=True):
            writer.writerow([name, images, *((f"{top1:.6f}", f"{top5:.6f}") if images else ("", ""))])


COLUMNS = ["image", "label", "predicted", "probability"]


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a CSV table: image (position in the data set), label, predicted (all from 0), probability."""
    p = predictions
    columns = (p.images.tolist(), p.labels.tolist(), p.predicted.tolist(), p.probabilities.tolist())
    with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(COLUMNS)
        for image, label, predicted, probability in zip(*columns, strict=True):
            writer.writerow([image, label, predicted, f"{probability:.6f}"])


def read_predictions(path: Path, classes: int) -> Predictions:
    """Read the table of `write_predictions`; UserError if it is damaged or has other classes."""
    try:
        with path.open(newline="", encoding="utf-8") as table:
            reader = csv.reader(table)
            if next(reader, None) != COLUMNS:
                raise ValueError(f"its first line is not {','.join(COLUMNS)}")
            rows = [(int(image), int(label), int(told), float(p)) for image, label, told, p in reader]
        whole = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
        probabilities = np.array([row[3] for row in rows], np.float64)
        if (whole < 0).any() or (whole[:, 1:] >= classes).any():
            raise ValueError(f"an image or a class is out of range; there are {classes} classes")
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError("a probability is not between 0 and 1")
    except (OSError, ValueError, OverflowError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error
    return Predictions(whole[:, 0], whole[:, 1], whole[:, 2], probabilities)


MATRIX_CLASSES = 40
"""With more classes a matrix is illegible; only the most confused pairs are listed."""

PAIRS, PICTURES, LONGEST_SIDE = 10, 12, 320


def mistakes_section(
    predictions: Predictions,
    names: Sequence[str],
    picture: Callable[[int], np.ndarray | None] | None,
    notes: Sequence[str],
) -> Section:
    """Make the section with the confusion matrix, the most confused pairs and the most confident mistakes.

    Args:
      predictions: predictions on the held-out images.
      names: class names.
      picture: position of an image → its pixels, uint8 [h, w, 3], or None if unreadable; None without images.
      notes: further paragraphs.
    """
    wrong = predictions.mistakes
    text = [f"{len(wrong):,} of {len(predictions.labels):,} held-out images are misclassified.", *notes]
    pairs = [(names[label], names[told], f"{n:,}") for label, told, n in most_confused(predictions, PAIRS)]
    tables = [Table("Most confused pairs", ("true class", "predicted", "images"), pairs)] if pairs else []
    drawings = []
    if len(names) <= MATRIX_CLASSES:
        counts = confusion_matrix(predictions, len(names))
        drawings.append(
            drawing(
                lambda figure: draw_confusion(figure, counts, names),
                key="confusion",
                height=4.6,
                label=f"Confusion matrix of {len(names)} classes; {len(wrong):,} images lie off its diagonal.",
                caption="Rows are true classes, columns predicted ones. Colour is the square root of the fraction of a "
                "row, which makes rare mistakes visible.",
            )
        )
    photographs = []
    if picture is not None:
        seen = [(int(at), picture(int(predictions.images[at]))) for at in wrong[:PICTURES]]
        photographs = [_photograph(predictions, at, names, pixels) for at, pixels in seen if pixels is not None]
    above = "The most confident mistakes, with the predicted probability:"
    return Section("mistakes", "Mistakes", text, tables, drawings, photographs, above)


def _photograph(predictions: Predictions, at: int, names: Sequence[str], pixels: np.ndarray) -> Photograph:
    shown, told = names[predictions.labels[at]], names[predictions.predicted[at]]
    image = int(predictions.images[at])
    caption = f"{shown} predicted as {told}, {predictions.probabilities[at]:.0%}"
    uri = image_uri(pixels, longest=LONGEST_SIDE)
    return Photograph(uri, f"Held-out image {image}: {caption}", caption, pixelated=max(pixels.shape[:2]) <= SMALL)
