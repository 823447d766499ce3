"""Boxes in float16 and bfloat16: as the same numbers in float32, though areas overflow and coordinates are rounded."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from cdnv2_jax.detectors.ops.boxes import area, clip_boxes, decode, encode, pairwise_iou
from cdnv2_jax.detectors.ops.nms import nms
from cdnv2_jax.detectors.ops.roi_align import roi_align, roi_levels
from tests.detection.ops import oracles
from tests.tables import table

BOXES = [
    [0, 0, 300, 300],
    [1, 1, 300, 300],
    [600, 40, 1330, 790],
    [8, 8, 8, 30],
    [610, 50, 1300, 800],
    [0, 0, 210, 220],
]
SCORES = jnp.asarray([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
OPERATIONS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "area": (jnp.float16, area),
    "iou": (jnp.float16, lambda boxes: pairwise_iou(boxes, boxes)),
    "suppression": (jnp.float16, lambda boxes: nms(boxes, SCORES, 0.5)),
    "levels": (jnp.float16, roi_levels),
    "clipping, to a side that it lacks": (jnp.bfloat16, lambda boxes: clip_boxes(boxes * 2, jnp.asarray([801, 1333]))),
    "encoding, of a box without width too": (jnp.float16, lambda boxes: encode(boxes[::-1], boxes)),
    "decoding, stretched": (jnp.bfloat16, lambda boxes: decode(boxes, boxes / 256)),
    "pooling": (jnp.float16, lambda boxes: roi_align([MAP], (16,), boxes, jnp.zeros(6, int), output_size=2)),
}
"""One kind of half precision each, because every program takes a quarter of a second to compile."""

MAP = jnp.asarray(np.random.default_rng(0).normal(size=(50, 84, 1)), jnp.float32)


@table("half, operation", OPERATIONS)
def test_same_as_float32(half: Any, operation: Callable[[Any], Any]) -> None:
    boxes = jnp.asarray(BOXES, half)
    found, expected = operation(boxes), operation(boxes.astype(jnp.float32))
    assert found.dtype == expected.dtype and np.isfinite(expected).all()
    np.testing.assert_array_equal(found, expected)


@table("half", [jnp.float16, jnp.bfloat16])
def test_suppression_by_a_plain_loop(half: Any) -> None:
    """Large boxes on a large image, clustered so that many overlap."""
    random = np.random.default_rng(1)
    low = random.choice([0, 500, 900], (40, 2)) + random.uniform(0, 60, (40, 2))
    boxes = jnp.asarray(np.concatenate([low, low + random.uniform(260, 400, (40, 2))], 1), half)
    scores, every = random.permutation(40) / 40, np.ones(40, bool)
    kept = oracles.nms(np.asarray(boxes, np.float64), scores, 0.5, np.zeros(40, int), every)
    assert 5 < len(kept) < 30
    assert sorted(np.flatnonzero(nms(boxes, jnp.asarray(scores), 0.5))) == sorted(kept)
