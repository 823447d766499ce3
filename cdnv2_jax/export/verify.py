"""Whether an exported file, run by its own runtime, gives what the network gives."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from cdnv2_jax.data.image_preparation import ImagePreparation
from cdnv2_jax.errors import UserError
from cdnv2_jax.export.photographs import photographs

Forward = Callable[[np.ndarray], np.ndarray | jax.Array]
"""Normalised images, float32 [b, size, size, 3] → logits [b, classes]."""

LARGEST_DIFFERENCE = 1e-4
"""Relative to the largest value: a hundred times what rounding in float32 makes of these networks."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How near two results for the same images are.

    Attributes:
      images: how many. top1: share of them, in [0, 1], for which the largest value is at the same place; None of what
        is not classified.
      difference: the largest, relative to the largest value; NaN if one is no number.
    """

    images: int
    top1: float | None
    difference: float

    def __str__(self) -> str:
        same = "" if self.top1 is None else f"top-1 the same for {self.top1:.0%}, "
        return f"on {self.images} photographs {same}largest relative difference {self.difference:.2g}"


def prepared_photographs(preparation: ImagePreparation) -> np.ndarray:
    """float32 [8, size, size, 3], as the network takes them."""
    return np.stack([preparation(image) for image in photographs()])


def agreement(actual: np.ndarray, expected: np.ndarray) -> Agreement:
    """Of logits [n, classes]."""
    if actual.shape != expected.shape:
        return Agreement(len(expected), 0.0, float("nan"))
    same = actual.argmax(1) == expected.argmax(1)
    return Agreement(len(expected), float(same.mean()), relative_difference(actual, expected))


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest absolute value; NaN if there is one among either."""
    largest = np.abs(expected).max(initial=0.0)
    return float(np.abs(actual - expected).max(initial=0.0) / max(largest, np.finfo(np.float32).tiny))


def refuse_difference(found: Agreement, what: str) -> None:
    """UserError when the results are further apart than rounding explains."""
    if not found.difference <= LARGEST_DIFFERENCE:  # written so that NaN is refused
        raise UserError(
            f"{what} does not give what the network gives ({found}, at most {LARGEST_DIFFERENCE:g} is rounding): "
            f"nothing was written"
        )
