"""What a peer is: another implementation, given the same weights and images, that must give the same logits."""

import dataclasses
from collections.abc import Callable

import numpy as np

from benchmarks.networks import Form
from benchmarks.timing import Call
from cdnv2_jax.training.config import OptimizerConfig
from tests.torch_twin import CondenseNetTwin

TOLERANCE = 1e-4
"""How far logits may be apart, relative to the largest."""

Loaded = Callable[[np.ndarray], Call]
"""Images float32 [b, h, w, 3] → a call that computes their logits [b, classes], an array or tensor on the CPU."""


class DifferentResults(AssertionError):
    """A peer that does not compute the same function, so that its time would mean nothing."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """A way to run the twin.

    Attributes:
      title: for tables.
      load: (the fully pruned, masked twin in evaluation mode, form to run it in) → the loaded network.
      forms: those it can run.
    """

    title: str
    load: Callable[[CondenseNetTwin, Form], Loaded]
    forms: tuple[Form, ...] = ("condensed", "masked")


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A way to train the twin.

    Attributes:
      title: for tables.
      start: (masked twin, its to change; images [b, h, w, 3]; labels int [b]; optimizer; label smoothing) → a call that
        makes one step and returns the loss before it.
    """

    title: str
    start: Callable[[CondenseNetTwin, np.ndarray, np.ndarray, OptimizerConfig, float], Call]


def check_same(ours: np.ndarray, theirs: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """Raises DifferentResults when two arrays differ by more than `tolerance` times the largest value of theirs."""
    if ours.shape != theirs.shape:
        raise DifferentResults(f"shapes {ours.shape} and {theirs.shape} differ")
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if not difference <= tolerance:  # NaN, too, is no agreement
        raise DifferentResults(f"results differ by {difference:.1e} of the largest, {tolerance:.0e} is allowed")
