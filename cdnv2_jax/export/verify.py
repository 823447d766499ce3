"""Comparison of an exported file, run by its own runtime, with the network, on real photographs."""

import dataclasses
import functools

import numpy as np
from sklearn.datasets import load_sample_images

from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.errors import NOT_FINITE, UserError

SHARES = (1.0, 0.7, 0.45)
"""Fractions of a photograph's height and width that its crops keep."""


@functools.cache
def whole_photographs() -> tuple[np.ndarray, ...]:
    """Return two images uint8 [427, 640, 3], a temple and a flower; do not write to them."""
    return tuple(load_sample_images().images)


def photographs() -> list[np.ndarray]:
    """Return eight images uint8 [h, w, 3], with sides of 190 to 640 pixels; do not write to them."""
    return [part for image in whole_photographs() for part in _parts(image)]


def _parts(image: np.ndarray) -> list[np.ndarray]:
    """Return the whole image, its centre, a corner, and the centre mirrored."""
    height, width = image.shape[:2]
    whole, middle, corner = ((int(height * share), int(width * share)) for share in SHARES)
    top, left = (height - middle[0]) // 2, (width - middle[1]) // 2
    centre = image[top : top + middle[0], left : left + middle[1]]
    return [image[: whole[0], : whole[1]], centre, image[: corner[0], : corner[1]], centre[:, ::-1]]


LARGEST_DIFFERENCE = 1e-4
"""Tolerance relative to the largest value: a hundred times the rounding error of these networks in float32."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How close two results for the same images are.

    Attributes:
      images: number of images.
      top1: fraction of them with the same top-1 class.
      difference: largest difference, relative to the largest value; NaN if a value is not finite.
    """

    images: int
    top1: float
    difference: float

    def __str__(self) -> str:
        same = f"same top-1 class for {self.top1:.0%}"
        return f"on {self.images} photographs: {same}, largest relative difference {self.difference:.2g}"


def prepared_photographs(preparation: ImagePreparation) -> np.ndarray:
    """Return the photographs preprocessed as for evaluation, float32 [8, size, size, channels]; beyond RGB, red, green
    and blue are repeated."""
    channels = np.arange(len(preparation.mean)) % 3
    return np.stack([preparation(image[..., channels]) for image in photographs()])


def agreement(actual: np.ndarray, expected: np.ndarray) -> Agreement:
    """Compare logits [n, classes]."""
    if actual.shape != expected.shape:
        return Agreement(len(expected), 0.0, float("nan"))
    same = actual.argmax(1) == expected.argmax(1)
    return Agreement(len(expected), float(same.mean()), relative_difference(actual, expected))


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference over the largest absolute value of `expected`; NaN if either holds NaN."""
    largest = np.abs(expected).max(initial=0.0)
    return float(np.abs(actual - expected).max(initial=0.0) / max(largest, np.finfo(np.float32).tiny))


def refuse_not_finite(values: np.ndarray, network: str) -> None:
    """Raise UserError if a network's own results are not finite: nothing can be compared with them."""
    if not np.isfinite(values).all():
        raise UserError(f"{network} {NOT_FINITE}; nothing was written")


def refuse_difference(found: Agreement, what: str) -> None:
    """Raise UserError if the results differ by more than rounding."""
    if not found.difference <= LARGEST_DIFFERENCE:  # written so that NaN is refused
        raise UserError(
            f"{what} does not reproduce the network's logits ({found}, tolerance {LARGEST_DIFFERENCE:g}): "
            f"nothing was written"
        )
