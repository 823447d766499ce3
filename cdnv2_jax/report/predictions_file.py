"""What a classifier said about each image, as a table that spreadsheets and `main.py report` read."""

import csv
from pathlib import Path

import numpy as np

from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.files import replacing
from cdnv2_jax.report.confusion import Predictions

COLUMNS = ["image", "label", "predicted", "probability"]


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes a CSV table: image (its position in the data, from 0), label, predicted (classes, from 0), probability."""
    p = predictions
    columns = (p.images.tolist(), p.labels.tolist(), p.predicted.tolist(), p.probabilities.tolist())
    with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(COLUMNS)
        for image, label, predicted, probability in zip(*columns, strict=True):
            writer.writerow([image, label, predicted, f"{probability:.6f}"])


def read_predictions(path: Path, classes: int) -> Predictions:
    """The table that `write_predictions` wrote; UserError when it is none for so many classes."""
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
