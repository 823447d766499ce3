"""Deltas between boxes, by hand, by a plain loop and there and back."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdnv2_jax.detectors.ops.boxes import decode, encode
from tests.detection.ops import oracles
from tests.detection.ops.test_boxes import DEGENERATE
from tests.tables import table

pytestmark = pytest.mark.usefixtures("x64")

LIMIT = math.log(1000 / 16)

CODES = {
    "itself": ([3, 4, 13, 24], [0, 0, 0, 0]),
    "shifted by half a width, a quarter height": ([8, 9, 18, 29], [0.5, 0.25, 0, 0]),
    "twice as wide, half as high": ([-2, 9, 18, 19], [0, 0, math.log(2), -math.log(2)]),
    "its right half": ([8, 4, 13, 24], [0.25, 0, -math.log(2), 0]),
}
"""By what they show: a box and its deltas from the anchor (3, 4, 13, 24)."""


@table("stds", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2), (1.0, 2.0, 4.0, 8.0)])
@table("box, deltas", CODES)
def test_by_hand(box: list[float], deltas: list[float], stds: tuple[float, ...]) -> None:
    anchor = jnp.asarray([[3, 4, 13, 24]], float)
    scaled = np.array([deltas]) / stds
    np.testing.assert_allclose(encode(anchor, jnp.asarray([box], float), stds), scaled, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(decode(anchor, jnp.asarray(scaled), stds), [box], rtol=1e-14, atol=1e-14)


def encoded(anchor: list[float], box: list[float]) -> list[float]:
    (ax, ay, aw, ah), (x, y, w, h) = (
        ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1) for x1, y1, x2, y2 in (anchor, box)
    )
    return [(x - ax) / aw, (y - ay) / ah, math.log(w / aw), math.log(h / ah)]


@table("stds", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)])
def test_there_and_back(stds: tuple[float, ...]) -> None:
    """Sides of at least a pixel on 50, so that no stretch reaches the limit."""
    rng = np.random.default_rng(1)
    anchors, boxes = (oracles.random_boxes(rng, (2000,), 49, whole=True) for _ in range(2))
    deltas = jax.jit(encode, static_argnames="stds")(anchors, boxes, stds=stds)
    expected = np.array([encoded(*pair) for pair in zip(anchors.tolist(), boxes.tolist(), strict=True)]) / stds
    np.testing.assert_allclose(deltas, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(decode(jnp.asarray(anchors), deltas, stds), boxes, rtol=1e-12, atol=1e-11)


def test_stretches_are_limited() -> None:
    """To 62.5 times and 1 / 62.5 of the anchor's size, after scaling; beyond, the gradient is zero."""
    anchor = jnp.asarray([0, 0, 2, 4], float)
    high, low = jnp.asarray([0, 0, 1e9, 1e9]), jnp.asarray([0, 0, -1e9, -1e9])
    np.testing.assert_allclose(decode(anchor, high), [1 - 62.5, 2 - 125, 1 + 62.5, 2 + 125], rtol=1e-13)
    np.testing.assert_allclose(decode(anchor, low), [0.984, 1.968, 1.016, 2.032], rtol=1e-13)
    scaled = decode(anchor, jnp.asarray([0, 0, 5 * LIMIT - 0.05, 6 * LIMIT]), (1, 1, 0.2, 0.2))
    np.testing.assert_allclose(scaled[2] - scaled[0], 2 * 62.5 * math.exp(-0.01), rtol=1e-12)
    np.testing.assert_allclose(scaled[3] - scaled[1], 4 * 62.5, rtol=1e-12)
    gradient = jax.grad(lambda deltas: decode(anchor, deltas)[2:].sum())
    np.testing.assert_array_equal(gradient(high), [2, 4, 0, 0])
    np.testing.assert_array_equal(gradient(low), [2, 4, 0, 0])


def test_boxes_of_each_class_share_an_anchor() -> None:
    """Leading axes broadcast: anchors [n, 1, 4], deltas [n, classes, 4]."""
    rng = np.random.default_rng(2)
    anchors, deltas = oracles.random_boxes(rng, (6,), 20), rng.normal(size=(6, 5, 4))
    found = jax.jit(decode)(anchors[:, None], deltas)
    one = jax.jit(decode)
    for klass in range(5):
        np.testing.assert_allclose(found[:, klass], one(anchors, deltas[:, klass]), rtol=1e-13)


@table("dtype", [jnp.float32, jnp.float64])
def test_boxes_without_area_have_finite_deltas_and_gradients(dtype: jnp.dtype) -> None:
    some = jnp.asarray([*DEGENERATE, [0, 0, 9, 9], [0, 0, 1333, 800]], dtype)
    anchors, boxes = (jnp.asarray(grid.reshape(-1, 4)) for grid in np.broadcast_arrays(some[:, None], some[None]))

    def total(anchors: jax.Array, boxes: jax.Array) -> jax.Array:
        deltas = encode(anchors, boxes, (0.1, 0.1, 0.2, 0.2))
        return deltas.sum() + decode(anchors, deltas).sum()

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(anchors, boxes)
    assert value.dtype == gradients[0].dtype == gradients[1].dtype == dtype
    assert np.isfinite(value) and np.isfinite(gradients).all()


def test_a_box_without_width_passes_no_gradient_to_its_width() -> None:
    """A height is encoded as ever beside it."""
    anchor = jnp.asarray([0, 0, 4, 4], float)
    gradient = jax.grad(lambda box: encode(anchor, box)[2:].sum())(jnp.asarray([2, 1, 2, 3], float))
    np.testing.assert_allclose(gradient, [0, -0.5, 0, 0.5])
