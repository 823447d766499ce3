"""The pure functions between importances and masks, by hand-written tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdnv2_jax.layers.learned import stage_of
from cdnv2_jax.pruning.prune import group_lasso, importance, remove_connections
from tests.tables import table

pytestmark = pytest.mark.usefixtures("x64")

REMOVALS = {
    "the least important goes": ([3, 1, 2, 4], "1111", 1, "1011"),
    "several at once": ([3, 1, 2, 4], "1111", 3, "0001"),
    "none": ([3, 1, 2, 4], "1111", 0, "1111"),
    "all": ([3, 1, 2, 4], "1111", 4, "0000"),
    "tie: the first goes": ([2, 1, 1, 1], "1111", 1, "1011"),
    "tie: the first two go": ([2, 1, 1, 1], "1111", 2, "1001"),
    "all equal": ([5, 5, 5, 5], "1111", 2, "0011"),
    "all zero": ([0, 0, 0, 0], "1111", 1, "0111"),
    "removed is below a survivor of zero importance": ([0, 0, 7, 0], "1101", 2, "0101"),
    "removed stays removed, whatever it weighs": ([9, 1, 2, 3], "0111", 2, "0011"),
    "target already passed": ([1, 2, 3, 4], "1001", 1, "1001"),
    "target just reached": ([1, 2, 3, 4], "1001", 2, "1001"),
    "on from an odd start": ([1, 2, 3, 4], "1001", 3, "0001"),
    "nothing left": ([1, 2, 3, 4], "0000", 2, "0000"),
}
"""Importances, mask, connections to be without, mask afterwards; by what they show."""


def bits(text: str) -> np.ndarray:
    return np.array([character == "1" for character in text])


@table("importances, mask, removed, expected", REMOVALS)
def test_remove_connections(importances: list[float], mask: str, removed: int, expected: str) -> None:
    found = remove_connections(jnp.asarray([importances], float), jnp.asarray(bits(mask)[None]), removed)
    np.testing.assert_array_equal(found, bits(expected)[None])
    assert found.dtype == bool


def test_groups_do_not_look_at_each_other() -> None:
    """The same number removed under jit, all of one length at once, each row as if it were alone."""
    rows = [row for row in REMOVALS.values() if row[2] == 2]
    assert len(rows) > 3
    importances = jnp.asarray([row[0] for row in rows], float)
    masks = jnp.asarray(np.array([bits(row[1]) for row in rows]))
    found = jax.jit(remove_connections)(importances, masks, jnp.int32(2))
    np.testing.assert_array_equal(found, [bits(row[3]) for row in rows])


@table("seed", range(3))
def test_several_stages_at_once_equal_one_by_one(seed: int) -> None:
    """Few different importances, so that ties abound."""
    importances = jnp.asarray(np.random.default_rng(seed).integers(0, 4, (3, 24)), float)
    full = jnp.ones((3, 24), bool)
    stepwise = full
    for removed in (0, 3, 6, 15, 18, 21):
        stepwise = remove_connections(importances, stepwise, removed)
        np.testing.assert_array_equal(stepwise, remove_connections(importances, full, removed))
        np.testing.assert_array_equal((~stepwise).sum(-1), removed)


def test_importance_is_the_sum_of_magnitudes() -> None:
    weights = jnp.asarray([[[1.0, -2.0], [0.0, 0.0]], [[-3.0, 3.0], [0.5, 0.25]]])
    np.testing.assert_array_equal(importance(weights), [[3, 0], [6, 0.75]])


@table(
    "mask, factor, stage",
    [
        (["111111", "111111"], 3, 0),
        (["011111", "111111"], 3, 0),
        (["011111", "101111"], 3, 0),
        (["001111", "110011"], 3, 1),
        (["000001", "110011"], 3, 1),
        (["000011", "110000"], 3, 2),
        (["011111", "111110"], 6, 1),
        (["111111"], 1, 0),
        (["010000"], 6, 5),
    ],
)
def test_stage_of(mask: list[str], factor: int, stage: int) -> None:
    """A stage is passed once every group has lost its share."""
    found = stage_of(jnp.asarray(np.array([bits(row) for row in mask])), factor)
    assert (int(found), found.dtype) == (stage, jnp.int32)


def test_group_lasso_closed_form() -> None:
    """√(3² + 4²) + √0.5² + one removed connection and one of zero weight at the floor, √1e-6 each."""
    weights = jnp.asarray([[[3.0, -4.0], [0.0, 0.5]], [[7.0, 7.0], [0.0, 0.0]]])
    mask = jnp.asarray([[True, True], [False, True]])
    np.testing.assert_allclose(group_lasso(weights, mask), 5 + 0.5 + 2e-3, rtol=1e-14)


def test_group_lasso_gradient() -> None:
    """weight / norm for what exists; exactly zero, not NaN, for removed, zero and tiny weights."""
    weights = jnp.asarray([[[3.0, -4.0], [0.0, 0.5]], [[7.0, 7.0], [0.0, 0.0]], [[1e-4, 1e-4], [1.0, 0.0]]])
    mask = jnp.asarray([[True, True], [False, True], [True, True]])
    gradient = jax.grad(group_lasso)(weights, mask)
    expected = [[[0.6, -0.8], [0, 1]], [[0, 0], [0, 0]], [[0, 0], [1, 0]]]
    np.testing.assert_allclose(gradient, expected, rtol=1e-14)


def test_group_lasso_of_weights_at_rest_has_a_finite_gradient() -> None:
    gradient = jax.grad(group_lasso)(jnp.zeros((2, 3, 4)), jnp.ones((2, 3), bool))
    np.testing.assert_array_equal(gradient, np.zeros((2, 3, 4)))
