"""From scored boxes to detections, against loops; and when a limit may have changed them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdnv2_jax.detectors.detector import Detections
from cdnv2_jax.detectors.nms import best_detections, top_k_and_next
from cdnv2_jax.detectors.settings import DetectorSettings
from tests.detection import reference
from tests.detection.tiny import random_boxes, tiny_settings
from tests.tables import table
from tests.twin_models import assert_near

run = jax.jit(best_detections, static_argnames="settings")


def settings_of(**changes: Any) -> DetectorSettings:
    limits: dict[str, Any] = {"score_threshold": 0.3, "nms_threshold": 0.4, "nms_candidates": 200, "most_detections": 9}
    return tiny_settings("retinanet", **(limits | changes))


def scored_boxes(seed: int, per_class: bool) -> tuple[np.ndarray, np.ndarray]:
    """40 boxes, three classes: scores [40, 3], boxes [40, 4] or [40, 3, 4]."""
    random = np.random.default_rng(seed)
    scores = random.random((40, 3)).astype(np.float32)
    boxes = random_boxes(random, 120 if per_class else 40, 40, 40)
    return scores, boxes.reshape(40, 3, 4) if per_class else boxes


def found_in(detections: Detections) -> list[tuple[float, int, tuple[float, ...]]]:
    """As `reference.class_wise` gives them."""
    valid, scores, labels, boxes = (
        np.asarray(x) for x in (detections.valid, detections.scores, detections.labels, detections.boxes)
    )
    count = valid.sum()
    assert valid[:count].all()
    rows = zip(scores[:count].tolist(), labels[:count].tolist(), boxes[:count].tolist(), strict=True)
    return [(score, label, tuple(box)) for score, label, box in rows]


@table("most", [9, 200])
@table("per_class", [False, True])
def test_against_loops(per_class: bool, most: int) -> None:
    """With fewer detections than there could be, and with fewer found than there may be."""
    settings = settings_of(most_detections=most)
    for seed in range(3):
        scores, boxes = scored_boxes(seed, per_class)
        of_class = boxes if per_class else np.repeat(boxes[:, None], 3, axis=1)
        expected = reference.class_wise(of_class, scores, score_threshold=0.3, nms_threshold=0.4, most=most)
        assert 5 < len(expected) <= most
        detections = run(jnp.asarray(scores), jnp.asarray(boxes), jnp.zeros(()), settings=settings)
        assert found_in(detections) == expected
        assert not detections.truncated
        unused = ~detections.valid
        assert not detections.boxes[unused].any() and not detections.scores[unused].any()


def test_only_scores_above_the_threshold_count() -> None:
    """Not those equal to it; and of nothing there are no detections, yet arrays of the full length."""
    scores = jnp.full((2, 3), 0.25).at[0, 1].set(0.5)
    boxes = jnp.asarray([[0.0, 0, 4, 4], [9, 9, 12, 12]])
    one = run(scores, boxes, jnp.zeros(()), settings=settings_of(score_threshold=0.25))
    assert found_in(one) == [(0.5, 1, (0, 0, 4, 4))]
    none = run(scores, boxes, jnp.zeros(()), settings=settings_of(score_threshold=0.5))
    assert none.boxes.shape == (9, 4) and not none.valid.any() and not none.truncated


@table("candidates", [10, 20, 30, 60, 84])
def test_what_is_not_truncated_is_what_no_limit_gives(candidates: int) -> None:
    """With ten candidates suppression leaves too few of most; with twenty of none."""
    unlimited, limited = settings_of(), settings_of(nms_candidates=candidates)
    truncated = []
    for seed in range(6):
        scores, boxes = (jnp.asarray(x) for x in scored_boxes(seed, per_class=False))
        expected = found_in(run(scores, boxes, jnp.zeros(()), settings=unlimited))
        detections = run(scores, boxes, jnp.zeros(()), settings=limited)
        truncated.append(bool(detections.truncated))
        if not detections.truncated:
            assert found_in(detections) == expected
    assert sum(truncated) > 2 if candidates == 10 else not any(truncated)


@pytest.mark.parametrize(
    ("left_out", "most", "truncated"),
    [
        (0.3, 40, False),
        (0.31, 40, True),
        (0.5, 2, False),
        (0.79, 2, False),
        (0.8, 2, False),
        (0.81, 2, True),
    ],
    ids=["at the threshold", "above it", "below the last", "just below", "as the last", "above the last"],
)
def test_what_was_left_out_before(left_out: float, most: int, truncated: bool) -> None:
    """Three boxes apart, of scores .9, .8 and .7: with most = 2 a full result."""
    scores = jnp.asarray([[0.9], [0.8], [0.7]])
    boxes = jnp.asarray([[0.0, 0, 4, 4], [9, 9, 12, 12], [20, 20, 30, 30]])
    settings = settings_of(most_detections=most)
    detections = run(scores, boxes, jnp.float32(left_out), settings=settings)
    assert detections.valid.sum() == min(most, 3)
    assert detections.truncated == truncated


def test_top_k_and_next() -> None:
    values = jnp.asarray([3.0, 1, 4, 1, 5])
    for k, expected, rest in ((2, [5, 4], 3), (4, [5, 4, 3, 1], 1), (5, [5, 4, 3, 1, 1], -np.inf)):
        best, indices, following = top_k_and_next(values, k)
        np.testing.assert_array_equal(best, expected)
        np.testing.assert_array_equal(values[indices], expected)
        assert following == rest
    best, indices, following = top_k_and_next(values, 9)
    assert_near(best, [5, 4, 3, 1, 1], 0)
    np.testing.assert_array_equal(indices, [4, 2, 0, 1, 3])
    assert following == -np.inf
