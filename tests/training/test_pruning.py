"""What is written down about a cut."""

import numpy as np
import pytest

from cdnv2_jax.training.pruning import cut_share

IMPORTANCE = np.array([[8.0, 1, 1], [4, 4, 2]])
BEFORE = np.array([[1, 1, 1], [1, 1, 0]], bool)


@pytest.mark.parametrize(
    ("after", "share"),
    [
        ([[1, 1, 1], [1, 1, 0]], 0),
        ([[1, 0, 1], [1, 0, 0]], 5 / 18),
        ([[0, 0, 0], [0, 0, 0]], 1),
    ],
)
def test_by_hand(after: list[list[int]], share: float) -> None:
    assert cut_share(IMPORTANCE, BEFORE, np.array(after, bool)) == pytest.approx(share, abs=1e-6)


def test_of_nothing() -> None:
    assert cut_share(np.zeros((2, 3)), BEFORE, np.zeros((2, 3), bool)) == 0
