"""Which of a run's networks is kept: the one with averaged or the one with live weights."""

import numpy as np
import pytest
from flax import nnx

from cdnv2_jax.classification.evaluation import score
from cdnv2_jax.training.experiment import Candidate, best_of

RIGHT, WRONG, BROKEN = [0.0, 1.0], [1.0, 0.0], [0.0, np.nan]


@pytest.mark.parametrize(
    "averaged, live, kept",
    [
        ([RIGHT, WRONG], [WRONG, WRONG], "EMA"),
        ([RIGHT, WRONG], [RIGHT, RIGHT], "live"),
        ([RIGHT, WRONG], [WRONG, RIGHT], "EMA"),  # of equal ones the average, as in the official evaluation
        ([RIGHT, BROKEN], [WRONG, WRONG], "live"),
    ],
)
def test_the_better_is_kept(averaged: list[list[float]], live: list[list[float]], kept: str) -> None:
    labels = np.array([1, 1])
    networks = {"EMA": averaged, "live": live}
    candidates = [Candidate(name, nnx.Module(), score(np.array(logits), labels)) for name, logits in networks.items()]
    assert best_of(candidates).weights == kept
