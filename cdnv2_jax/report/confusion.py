"""What a classifier took for what, as numbers."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a classifier said about each image of a data set; all arrays have one entry per image.

    Attributes:
      images: int64, positions in the data set. labels, predicted: int64, classes. probabilities: float64 in [0, 1], of
        the predicted class.
    """

    images: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def from_logits(cls, logits: np.ndarray, labels: np.ndarray, images: np.ndarray) -> "Predictions":
        """The largest of `logits` [n, classes] and its probability; of equal ones the first counts as larger."""
        with np.errstate(invalid="ignore"):  # logits that are no numbers have no probabilities
            probabilities = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1, dtype=np.float64)
        images, labels = np.asarray(images, np.int64), np.asarray(labels, np.int64)
        return cls(images, labels, logits.argmax(1), np.nan_to_num(probabilities, nan=0.0))

    @property
    def mistakes(self) -> np.ndarray:
        """Positions within these arrays where label and prediction differ, the most confident first."""
        wrong = np.flatnonzero(self.labels != self.predicted)
        return wrong[np.argsort(-self.probabilities[wrong], kind="stable")]


def confusion_matrix(predictions: Predictions, classes: int) -> np.ndarray:
    """int64 [classes, classes]: how many images of each class (row) were taken for each (column)."""
    pairs = predictions.labels * classes + predictions.predicted
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def most_confused(predictions: Predictions, most: int) -> list[tuple[int, int, int]]:
    """(label, predicted, images) of the pairs of classes that were most often confused, at most so many."""
    wrong = predictions.mistakes
    pairs = np.stack([predictions.labels[wrong], predictions.predicted[wrong]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [(int(found[i, 0]), int(found[i, 1]), int(counts[i])) for i in order]
