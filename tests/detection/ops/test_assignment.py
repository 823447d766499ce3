"""Which box an anchor is to find: each rule by hand, and all against plain loops over thousands of random cases."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdnv2_jax.detectors.ops.assignment import IGNORED, NEGATIVE, assign
from cdnv2_jax.detectors.ops.boxes import pairwise_iou
from tests.detection.ops import oracles
from tests.tables import table

RULES: dict[str, dict[str, Any]] = {
    "rpn": {"positive": 0.7, "negative": 0.3, "min_positive": 0.3, "low_quality": True},
    "retinanet": {"positive": 0.5, "negative": 0.4, "min_positive": 0.0, "low_quality": True},
    "roi": {"positive": 0.5, "negative": 0.5, "min_positive": 0.5, "low_quality": False},
}

BY_HAND = {
    "thresholds: below, at negative, between, at positive": ("rpn", [[0.29, 0.3, 0.69, 0.7, 0.9]], [-1, -2, -2, 0, 0]),
    "roi: nothing in between": ("roi", [[0.49, 0.5, 0.6]], [-1, 0, 0]),
    "the best box wins": ("rpn", [[0.7, 0.8, 0.9], [0.8, 0.7, 0.2]], [1, 0, 0]),
    "of equals the first": ("roi", [[0.6, 0.1], [0.6, 0.2]], [0, -1]),
    "low quality: all that tie": ("rpn", [[0.4, 0.1, 0.4, 0.35]], [0, -1, 0, -2]),
    "low quality: at the least overlap": ("rpn", [[0.3, 0.1]], [0, -1]),
    "low quality: below it": ("rpn", [[0.29, 0.1]], [-1, -1]),
    "low quality: the later box": ("rpn", [[0.5, 0.1], [0.5, 0.2]], [1, -1]),
    "low quality: even from a better box": ("rpn", [[0.9, 0.8], [0.4, 0.3]], [1, 0]),
    "low quality: an overlap of 0 ties everywhere": ("retinanet", [[0.0, 0.0], [0.6, 0.1]], [1, 0]),
}


@table("rules, overlaps, expected", BY_HAND)
def test_by_hand(rules: str, overlaps: list[list[float]], expected: list[int]) -> None:
    """Rows of padding before and behind change nothing but the numbers of the boxes."""
    compiled = jax.jit(partial(assign, **RULES[rules]))
    found = compiled(jnp.asarray(overlaps), jnp.ones(len(overlaps), bool))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == jnp.int32
    padded = jnp.pad(jnp.asarray(overlaps), ((1, 2), (0, 0)), constant_values=0.95)
    valid = jnp.asarray([False] + [True] * len(overlaps) + [False] * 2)
    shifted = [box + 1 if box >= 0 else box for box in expected]
    np.testing.assert_array_equal(compiled(padded, valid), shifted)


@table("rules", list(RULES))
@table("boxes", [0, 3])
def test_without_a_valid_box_all_are_negative(rules: str, boxes: int) -> None:
    """RetinaNet's least overlap of 0 included; what is no candidate stays ignored."""
    overlaps, valid = jnp.zeros((boxes, 4)), jnp.zeros(boxes, bool)
    compiled = jax.jit(partial(assign, **RULES[rules]))
    np.testing.assert_array_equal(compiled(overlaps, valid), [NEGATIVE] * 4)
    candidates = jnp.asarray([True, False, True, True])
    found = compiled(overlaps, valid, candidates=candidates)
    np.testing.assert_array_equal(found, [NEGATIVE, IGNORED, NEGATIVE, NEGATIVE])


def test_candidates() -> None:
    """The best overlap of a box is that among candidates; without any, no box takes anything."""
    overlaps = jnp.asarray([[0.9, 0.4, 0.1]])
    one = jax.jit(partial(assign, overlaps, jnp.ones(1, bool), **RULES["rpn"]))
    np.testing.assert_array_equal(one(candidates=jnp.asarray([False, True, True])), [IGNORED, 0, NEGATIVE])
    np.testing.assert_array_equal(one(candidates=jnp.zeros(3, bool)), [IGNORED] * 3)


CASES, ANCHORS, TRUE_BOXES = 700, 30, 5


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("with_candidates", [False, True])
def test_against_loops(rules: str, with_candidates: bool) -> None:
    """Overlaps of boxes on whole pixels, so that ties abound; any number of boxes valid, none included."""
    rng = np.random.default_rng(4)
    true = oracles.random_boxes(rng, (CASES, TRUE_BOXES), 8, whole=True).astype(np.float32)
    anchors = oracles.random_boxes(rng, (CASES, ANCHORS), 8, whole=True).astype(np.float32)
    valid = np.arange(TRUE_BOXES) < rng.integers(0, TRUE_BOXES + 1, (CASES, 1))
    candidates = rng.random((CASES, ANCHORS)) < 0.7 if with_candidates else np.ones((CASES, ANCHORS), bool)

    @jax.jit
    @jax.vmap
    def many(true: jax.Array, anchors: jax.Array, valid: jax.Array, candidates: jax.Array):
        overlaps = pairwise_iou(true, anchors)
        return overlaps, assign(overlaps, valid, **RULES[rules], candidates=candidates if with_candidates else None)

    overlaps, found = (np.asarray(array) for array in many(true, anchors, valid, candidates))
    for case in range(CASES):
        expected = oracles.assign(overlaps[case], valid[case], candidates[case], **RULES[rules])
        assert found[case].tolist() == expected, case
    best = np.where(candidates[:, None], overlaps, -1).max(-1, keepdims=True)
    tied = ((overlaps == best) & candidates[:, None]).sum(-1) > 1
    assert (tied & valid).sum() > CASES / 10
    kinds = {NEGATIVE, 0, TRUE_BOXES - 1} | ({IGNORED} if with_candidates or rules != "roi" else set())
    assert kinds <= set(found.ravel().tolist())


def test_a_box_gets_its_best_anchor_when_compiled_with_its_overlaps() -> None:
    """Overlaps that need rounding: computed twice and differently, none would equal the best."""
    rng = np.random.default_rng(5)
    true = oracles.random_boxes(rng, (8, 20), 100).astype(np.float32)
    anchors = oracles.random_boxes(rng, (8, 3001), 100).astype(np.float32)

    @jax.jit
    @jax.vmap
    def one(true: jax.Array, anchors: jax.Array) -> jax.Array:
        return assign(pairwise_iou(true, anchors), jnp.ones(20, bool), **RULES["retinanet"])

    found = np.asarray(one(true, anchors))
    best = np.asarray(jax.vmap(pairwise_iou)(jnp.asarray(true), jnp.asarray(anchors))).argmax(-1)
    later = [[box in best[case][number + 1 :] for number, box in enumerate(best[case])] for case in range(8)]
    claimed = np.take_along_axis(found, best, -1) == np.arange(20)
    np.testing.assert_array_equal(claimed | np.array(later), True)


def test_gradients_pass_it_by() -> None:
    """Targets chosen by it are constants."""

    def total(boxes: jax.Array) -> jax.Array:
        assigned = assign(pairwise_iou(boxes, boxes), jnp.ones(len(boxes), bool), **RULES["rpn"])
        return (boxes[assigned] * (assigned >= 0)[:, None]).sum()

    boxes = jnp.asarray([[0, 0, 4, 4], [2, 2, 2, 2], [5, 5, 9, 9]], jnp.float32)
    gradient = jax.jit(jax.grad(total))(boxes)
    np.testing.assert_array_equal(gradient, [[1] * 4, [0] * 4, [1] * 4])
