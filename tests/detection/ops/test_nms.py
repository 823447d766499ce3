"""Suppression: known values, and exactly the greedy walk over thousands of random cases."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cdnv2_jax.detectors.ops.nms import best_after_nms, nms
from tests.detection.ops import oracles
from tests.detection.ops.test_boxes import DEGENERATE
from tests.tables import table

compiled_nms = jax.jit(nms)
compiled_best = jax.jit(best_after_nms, static_argnums=3)

BOXES = jnp.asarray([[6, 3, 8, 7], [3, 6, 9, 11], [3, 7, 10, 12], [1, 4, 13, 7]], jnp.float32)
SCORES = jnp.asarray([0.6, 0.9, 0.7, 0.2])


def test_known_value() -> None:
    np.testing.assert_array_equal(compiled_nms(BOXES, SCORES, 0.3), [True, True, False, True])
    indices, valid = compiled_best(BOXES, SCORES, 0.3, 4)
    np.testing.assert_array_equal(indices, [1, 0, 3, 0])
    np.testing.assert_array_equal(valid, [True, True, True, False])
    assert indices.dtype == jnp.int32


@table("count, expected", [(1, [1]), (2, [1, 0]), (6, [1, 0, 3, 0, 0, 0])])
def test_count(count: int, expected: list[int]) -> None:
    """Fewer than survive, and more than there are boxes."""
    indices, valid = compiled_best(BOXES, SCORES, 0.3, count)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(valid, np.arange(count) < 3)


def test_chain() -> None:
    """What is suppressed suppresses nothing: in a row where each overlaps the next, every second box stays."""
    left = jnp.arange(40.0)
    boxes = jnp.stack([left * 4, 0 * left, left * 4 + 10, 0 * left + 10], -1)
    np.testing.assert_array_equal(compiled_nms(boxes, -left, 0.4), np.arange(40) % 2 == 0)
    np.testing.assert_array_equal(compiled_nms(boxes, left, 0.4), np.arange(40) % 2 == 1)


def test_threshold_is_exceeded_not_reached() -> None:
    boxes = jnp.asarray([[0, 0, 4, 4], [0, 0, 4, 2]], jnp.float32)
    scores = jnp.asarray([1.0, 0.5])
    np.testing.assert_array_equal(compiled_nms(boxes, scores, 0.5), [True, True])
    np.testing.assert_array_equal(
        compiled_nms(boxes, scores, np.nextafter(np.float32(0.5), np.float32(0))), [True, False]
    )


def test_of_equal_scores_the_first_stays() -> None:
    boxes = jnp.asarray([[0, 0, 4, 4]] * 3, jnp.float32)
    np.testing.assert_array_equal(compiled_nms(boxes, jnp.zeros(3), 0.5), [True, False, False])
    np.testing.assert_array_equal(compiled_nms(boxes, jnp.asarray([0.0, 1, 1]), 0.5), [False, True, False])


def test_the_worst_valid_score_comes_before_what_is_suppressed_or_not_valid() -> None:
    boxes = jnp.asarray([[0, 0, 4, 4], [0, 0, 4, 4], [8, 8, 9, 9], [5, 5, 6, 6]], jnp.float32)
    scores = jnp.asarray([0.9, 0.8, -jnp.inf, 1.0])
    indices, valid = compiled_best(boxes, scores, 0.5, 3, valid=jnp.asarray([True, True, True, False]))
    np.testing.assert_array_equal(indices, [0, 2, 0])
    np.testing.assert_array_equal(valid, [True, True, False])


CASES, BOXES_PER_CASE = 250, 24


@table("limit", [6, 12])
@table("with_groups", [False, True])
@table("with_valid", [False, True])
def test_greedy(limit: int, with_groups: bool, with_valid: bool) -> None:
    """Boxes on whole pixels and few different scores, so that ties abound; each threshold 0, 0.05 … 1, traced."""
    rng = np.random.default_rng([limit, with_groups, with_valid])
    shape = CASES, BOXES_PER_CASE
    boxes = oracles.random_boxes(rng, shape, limit, whole=True)
    scores = rng.integers(0, 10, shape) / 10
    thresholds = (np.arange(CASES) % 21) / 20
    groups = rng.integers(0, 3, shape) if with_groups else np.zeros(shape, int)
    valid = rng.random(shape) < 0.7 if with_valid else np.ones(shape, bool)
    named = {"groups": groups} if with_groups else {}
    named |= {"valid": valid} if with_valid else {}

    @jax.jit
    @jax.vmap
    def both(boxes: jax.Array, scores: jax.Array, threshold: jax.Array, named: dict[str, jax.Array]):
        return nms(boxes, scores, threshold, **named), best_after_nms(boxes, scores, threshold, 5, **named)

    keep, (best, found) = both(boxes.astype(np.float32), scores.astype(np.float32), thresholds, named)
    suppressed = 0
    for case in range(CASES):
        kept = oracles.nms(boxes[case], scores[case], thresholds[case], groups[case], valid[case])
        suppressed += valid[case].sum() - len(kept)
        assert np.flatnonzero(keep[case]).tolist() == sorted(kept)
        assert best[case].tolist() == (kept + [0] * 5)[:5]
        assert found[case].tolist() == [slot < len(kept) for slot in range(5)]
    assert suppressed > CASES


def test_batch_equals_one_by_one() -> None:
    """Cases of a batch take different numbers of steps."""
    rng = np.random.default_rng(3)
    boxes = jnp.asarray(oracles.random_boxes(rng, (12, 40), 10), jnp.float32)
    scores = jnp.asarray(rng.random((12, 40)), jnp.float32)
    one = jax.jit(partial(nms, iou_threshold=0.3))
    expected = [one(*case) for case in zip(boxes, scores, strict=True)]
    np.testing.assert_array_equal(jax.vmap(one)(boxes, scores), expected)


def test_boxes_without_area_and_gradients() -> None:
    """They neither suppress nor are suppressed, and what uses the mask can be differentiated."""
    boxes = jnp.asarray([*DEGENERATE, [0, 0, 9, 9]], jnp.float32)
    scores = jnp.arange(7.0)
    np.testing.assert_array_equal(compiled_nms(boxes, scores, 0.0), [True] * 7)

    def total(boxes: jax.Array, scores: jax.Array) -> jax.Array:
        indices, valid = compiled_best(boxes, scores, 0.3, 3)
        return jnp.where(valid, boxes[indices].sum(-1) * scores[indices], 0).sum()

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(BOXES, SCORES)
    np.testing.assert_array_equal(gradients[0], np.array([[0.6] * 4, [0.9] * 4, [0] * 4, [0.2] * 4], np.float32))
    np.testing.assert_array_equal(gradients[1], [24, 29, 0, 25])
