"""Peers: other implementations that must produce the same logits from the same weights and images."""

import dataclasses
from collections.abc import Callable

import numpy as np

from benchmarks.networks import Form
from benchmarks.timing import Call
from cdnv2_jax.training.config import OptimizerConfig
from tests.torch_twin import CondenseNetTwin

TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit."""

Loaded = Callable[[np.ndarray], Call]
"""Images float32 [b, h, w, 3] → a call that computes logits [b, classes], an array or tensor on the CPU."""


class DifferentResults(AssertionError):
    """A peer computes something else, so that its time would mean nothing."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """A way to run the twin.

    Attributes:
      title: for tables.
      load: (fully pruned masked twin in evaluation mode, form to run) → the loaded network.
      forms: which it can run.
    """

    title: str
    load: Callable[[CondenseNetTwin, Form], Loaded]
    forms: tuple[Form, ...] = ("condensed", "masked")


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A way to train the twin.

    Attributes:
      title: for tables.
      start: (masked twin, changed in place; images [b, h, w, 3]; labels int [b]; optimizer; label smoothing) → a call
        that makes one step and returns the loss before it.
    """

    title: str
    start: Callable[[CondenseNetTwin, np.ndarray, np.ndarray, OptimizerConfig, float], Call]


def check_same(ours: np.ndarray, theirs: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """Raise DifferentResults when arrays differ by more than `tolerance` times the largest value of `theirs`."""
    if ours.shape != theirs.shape:
        raise DifferentResults(f"shapes {ours.shape} and {theirs.shape} differ")
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if not difference <= tolerance:  # also refuses NaN
        raise DifferentResults(f"results differ by {difference:.1e} of the largest, {tolerance:.0e} is allowed")
