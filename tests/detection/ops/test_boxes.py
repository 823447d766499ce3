"""Areas, overlaps and limits of boxes, by hand and by a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdnv2_jax.detectors.ops.boxes import area, clip_boxes, pairwise_iou
from tests.detection.ops import oracles
from tests.tables import table

pytestmark = pytest.mark.usefixtures("x64")

compiled_iou = jax.jit(pairwise_iou)

DEGENERATE = [[0, 0, 0, 0], [5, 5, 5, 9], [5, 5, 9, 5], [9, 9, 5, 5], [9, 5, 5, 9], [1, 1, 1 + 1e-20, 2]]


def test_area() -> None:
    boxes = [[0, 0, 2, 3], [-1.5, 1, 0.5, 1.25], [4, 4, 4, 9], [3, 3, 1, 1], [3, 1, 1, 3]]
    np.testing.assert_array_equal(area(jnp.asarray(boxes, float)), [6, 0.5, 0, 0, 0])


IOUS = {
    "the same box": ([0, 0, 10, 10], [0, 0, 10, 10], 1),
    "half of it": ([0, 0, 10, 10], [0, 0, 5, 10], 0.5),
    "corners overlap": ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7),
    "shifted by .23 of its width": ([0, 0, 100, 50], [23, 0, 123, 50], 77 / 123),
    "edges touch": ([0, 0, 2, 2], [2, 0, 4, 2], 0),
    "apart in both axes": ([0, 0, 1, 1], [5, 5, 6, 6], 0),
    "no area": ([3, 3, 3, 3], [3, 3, 3, 3], 0),
    "no area within a box": ([3, 3, 3, 3], [0, 0, 9, 9], 0),
    "swapped corners": ([4, 4, 1, 1], [0, 0, 9, 9], 0),
    "the union is floored": ([0, 0, 1e-4, 1e-4], [0, 0, 1e-4, 1e-4], 1e-2),
}


@table("a, b, expected", IOUS)
def test_iou(a: list[float], b: list[float], expected: float) -> None:
    one, other = jnp.asarray([a], float), jnp.asarray([b], float)
    np.testing.assert_allclose(compiled_iou(one, other), [[expected]], rtol=1e-14)
    np.testing.assert_allclose(compiled_iou(other, one), [[expected]], rtol=1e-14)


@table("whole", [False, True])
def test_iou_of_many(whole: bool) -> None:
    rng = np.random.default_rng(0)
    a, b = oracles.random_boxes(rng, (50,), 12, whole), oracles.random_boxes(rng, (60,), 12, whole)
    expected = [[oracles.iou(one, other) for other in b.tolist()] for one in a.tolist()]
    np.testing.assert_allclose(compiled_iou(a, b), expected, rtol=1e-13, atol=1e-14)


def test_clip() -> None:
    """Height first, then width; a box beyond the image collapses onto its edge."""
    boxes = jnp.asarray([[-3, -4, 30, 40], [1, 2, 3, 4], [25, 5, 28, 6], [2, -9, 4, -1]], jnp.float32)
    expected = [[0, 0, 20, 10], [1, 2, 3, 4], [20, 5, 20, 6], [2, 0, 4, 0]]
    found = jax.jit(clip_boxes)(boxes, jnp.asarray([10, 20]))
    np.testing.assert_array_equal(found, expected)
    batch = jax.vmap(clip_boxes)(jnp.stack([boxes, boxes]), jnp.asarray([[10, 20], [100, 100]]))
    np.testing.assert_array_equal(batch[0], expected)
    np.testing.assert_array_equal(batch[1], np.maximum(boxes, 0))


@table("dtype", [jnp.float32, jnp.float64])
def test_boxes_without_area_have_finite_overlaps_and_gradients(dtype: jnp.dtype) -> None:
    boxes = jnp.asarray([*DEGENERATE, [0, 0, 9, 9]], dtype)

    def total(boxes: jax.Array) -> jax.Array:
        clipped = clip_boxes(boxes, jnp.asarray([8, 8]))
        return pairwise_iou(boxes, clipped).sum() + area(boxes).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(boxes)
    assert gradient.dtype == value.dtype == dtype
    assert np.isfinite(value) and np.isfinite(gradient).all()
