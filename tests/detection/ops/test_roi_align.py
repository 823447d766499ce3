"""RoIAlign in both forms: known values, plain loops for value and gradient, and boxes that are no boxes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdnv2_jax.detectors.ops.roi_align import roi_align, roi_align_exact, roi_levels
from cdnv2_jax.errors import UserError
from tests.detection.ops import oracles
from tests.tables import table

pytestmark = pytest.mark.usefixtures("x64")

Form = Callable[..., jax.Array]

STRIDES = (4, 8, 16, 32)
SIZES = ((24, 30), (12, 15), (6, 8), (3, 4))
"""Of the maps of a small image, 96 × 120 pixels."""


def one_map(feature_map: jax.Array, boxes: jax.Array, stride: int, **named: Any) -> jax.Array:
    """The gathering form on a single level."""
    return roi_align([feature_map], [stride], boxes, jnp.zeros(len(boxes), jnp.int32), **named)


KNOWN = {
    "2 × 2": ([[1, 2], [3, 4]], [0, 0, 1, 1], [[1, 1.25], [1.5, 1.75]]),
    "4 × 4": (
        [[1, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]],
        [0, 0, 3, 3],
        [[1.9375, 4.75], [7.5625, 10.375]],
    ),
}


@table("form", [one_map, partial(roi_align_exact, most_samples=9)])
@table("rows, box, expected", KNOWN)
def test_known_values(form: Form, rows: list[list[float]], box: list[float], expected: list[list[float]]) -> None:
    feature_map = jnp.asarray(rows, float)[..., None]
    found = jax.jit(partial(form, stride=1, output_size=2, sampling_ratio=2))(feature_map, jnp.asarray([box], float))
    np.testing.assert_allclose(found[0, ..., 0], expected, rtol=1e-14)


@table("form", [one_map, roi_align_exact])
def test_a_slope_gives_the_centres_of_bins(form: Form) -> None:
    """Of f(x, y) = 3x + 5y + 1 in pixels, cell centres at half a stride, the mean over a bin is its centre's value."""
    y, x = (np.mgrid[:20, :30] + 0.5) * 8
    feature_map = jnp.asarray(3 * x + 5 * y + 1)[..., None]
    boxes = np.array([[10.0, 20.0, 80.0, 90.0], [30.5, 41.25, 200.0, 60.0]])
    found = jax.jit(partial(form, stride=8, sampling_ratio=3))(feature_map, boxes)
    centre = (np.arange(7) + 0.5) / 7
    for box, bins in zip(boxes, found, strict=True):
        xs, ys = box[0] + centre * (box[2] - box[0]), box[1] + centre * (box[3] - box[1])
        np.testing.assert_allclose(bins[..., 0], 3 * xs + 5 * ys[:, None] + 1, rtol=1e-13)


def anywhere(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes of all sizes on the small image, some of them beyond its edges."""
    return oracles.random_boxes(rng, (count,), 180) - 30


def maps_and_boxes(seed: int, count: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=(*size, 3)) for size in SIZES]
    return maps, anywhere(rng, count), rng.integers(0, 4, count)


@table("ratio", [1, 2, 3])
def test_gathering_against_loops(ratio: int) -> None:
    maps, boxes, levels = maps_and_boxes(8, 130)
    found = jax.jit(partial(roi_align, strides=STRIDES, sampling_ratio=ratio))(maps, boxes=boxes, levels=levels)
    expected = [
        oracles.roi_align(maps[level], box, STRIDES[level], 7, ratio) for box, level in zip(boxes, levels, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@table("level, most", [(0, 7), (1, 4), (2, 2), (0, 2)])
def test_exact_against_loops(level: int, most: int) -> None:
    """Adaptive: as many samples as a box needs, and no more than the bound, which the last case reaches."""
    maps, boxes, _ = maps_and_boxes(9, 60)
    exact = jax.jit(partial(roi_align_exact, stride=STRIDES[level], most_samples=most))
    expected = [oracles.roi_align(maps[level], box, STRIDES[level], 7, None, most) for box in boxes]
    np.testing.assert_allclose(exact(maps[level], boxes), expected, rtol=1e-12, atol=1e-12)
    unbounded = [oracles.roi_align(maps[level], box, STRIDES[level], 7, None) for box in boxes]
    assert np.allclose(expected, unbounded) == ((level, most) != (0, 2))


@table("dtype", [np.float32, np.float64])
@table("size", [7, 14, 21, 28, 35, 42, 49, 63, 70])
def test_a_whole_number_of_cells_per_bin_has_as_many_samples(size: int, dtype: type) -> None:
    """Of size / 7 nothing is rounded up: n cells per bin, n samples, each at a cell's centre, so the mean of cells."""
    feature_map = np.random.default_rng(10).normal(size=(70, 70, 1)).astype(dtype)
    box = np.array([[0, 0, size, size]], dtype)
    found = jax.jit(partial(roi_align_exact, stride=1, most_samples=12))(feature_map, box)
    cells = size // 7
    expected = feature_map[:size, :size, 0].reshape(7, cells, 7, cells).mean((1, 3))
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-5 if dtype == np.float32 else 1e-13)


@table("ratio, output_size", [(1, 7), (2, 7), (5, 7), (2, 1)])
def test_both_forms_agree(ratio: int, output_size: int) -> None:
    maps, boxes, levels = maps_and_boxes(11, 500)
    named = {"output_size": output_size, "sampling_ratio": ratio}
    gathered = jax.jit(partial(roi_align, strides=STRIDES, **named))(maps, boxes=boxes, levels=levels)
    for level in (0, 2):
        exact = jax.jit(partial(roi_align_exact, stride=STRIDES[level], **named))(maps[level], boxes)
        np.testing.assert_allclose(gathered[levels == level], exact[levels == level], rtol=1e-11, atol=1e-12)


def test_cells_beyond_the_image_are_not_read() -> None:
    maps, boxes, levels = maps_and_boxes(15, 70)
    larger = [np.pad(one, ((0, 3), (0, 2), (0, 0)), constant_values=1e6) for one in maps]
    gathered = jax.jit(partial(roi_align, strides=STRIDES))
    found = gathered(larger, boxes=boxes, levels=levels, sizes=jnp.asarray(SIZES))
    np.testing.assert_array_equal(found, gathered(maps, boxes=boxes, levels=levels))
    exact = jax.jit(partial(roi_align_exact, stride=STRIDES[1], most_samples=4))
    found = exact(larger[1], boxes, size=jnp.asarray(SIZES[1]))
    np.testing.assert_allclose(found, exact(maps[1], boxes), rtol=1e-12, atol=1e-12)


def value_and_pulled(form: Form, cotangents: np.ndarray, *inputs: Any) -> tuple[jax.Array, tuple]:
    """What `form` makes of its inputs, and what cotangents of that mean for each of the inputs."""

    @jax.jit
    def both(cotangents: jax.Array, *inputs: Any) -> tuple[jax.Array, tuple]:
        value, pull = jax.vjp(form, *inputs)
        return value, pull(cotangents)

    return both(cotangents, *inputs)


def test_gradient_of_gathering() -> None:
    """The transposed loop; boxes get nothing."""
    maps, boxes, levels = maps_and_boxes(12, 130)
    cotangents = np.random.default_rng(13).normal(size=(130, 7, 7, 3))
    _, (found, of_boxes) = value_and_pulled(
        lambda maps, boxes: roi_align(maps, STRIDES, boxes, jnp.asarray(levels)), cotangents, maps, boxes
    )
    np.testing.assert_array_equal(of_boxes, np.zeros_like(boxes))
    for level, stride in enumerate(STRIDES):
        terms = [
            oracles.roi_align_transposed(cotangents[index], *SIZES[level], boxes[index], stride, 2)
            for index in np.flatnonzero(levels == level)
        ]
        np.testing.assert_allclose(found[level], sum(terms), rtol=1e-11, atol=1e-11)


def test_gradient_of_exact() -> None:
    maps, boxes, _ = maps_and_boxes(14, 40)
    cotangents = np.random.default_rng(15).normal(size=(40, 7, 7, 3))
    exact = partial(roi_align_exact, stride=8, most_samples=4)
    _, (found, of_boxes) = value_and_pulled(exact, cotangents, maps[1], boxes)
    np.testing.assert_array_equal(of_boxes, np.zeros_like(boxes))
    terms = [
        oracles.roi_align_transposed(cotangent, *SIZES[1], box, 8, None)
        for cotangent, box in zip(cotangents, boxes, strict=True)
    ]
    np.testing.assert_allclose(found, sum(terms), rtol=1e-11, atol=1e-11)


NO_BOXES = [
    [0, 0, 0, 0],
    [40, 40, 40, 40],
    [40, 10, 40, 60],
    [60, 50, 20, 10],
    [500, 500, 600, 600],
    [-900, -900, -800, -800],
    [-1e9, -1e9, 1e9, 1e9],
    [-1e30, 0, 1e30, 50],
    [-np.inf, -np.inf, np.inf, np.inf],
    [np.nan, np.nan, np.nan, np.nan],
]


@table("dtype", [np.float32, np.float64])
@table("ratio", [2, None])
def test_boxes_that_are_no_boxes(ratio: int | None, dtype: type) -> None:
    """Value and gradient are finite, and a box that misses the map reads zeros."""
    feature_map = np.random.default_rng(16).normal(size=(12, 15, 2)).astype(dtype)
    boxes = np.array(NO_BOXES, dtype)
    forms = [partial(roi_align_exact, stride=8, sampling_ratio=ratio, most_samples=4)]
    forms += [partial(one_map, stride=8, sampling_ratio=ratio)] if ratio else []
    for form in forms:
        value, gradients = value_and_pulled(form, np.ones((len(boxes), 7, 7, 2), dtype), feature_map, boxes)
        assert value.dtype == dtype and [gradient.dtype for gradient in gradients] == [dtype] * 2
        assert np.isfinite(value).all() and all(np.isfinite(gradient).all() for gradient in gradients)
        np.testing.assert_array_equal(value[4:6], np.zeros((2, 7, 7, 2)))
        if ratio is None:
            np.testing.assert_array_equal(value[:4], np.zeros((4, 7, 7, 2)))
        else:
            np.testing.assert_allclose(value[1], np.broadcast_to(value[1, :1, :1], (7, 7, 2)))


def test_half_precision_maps_give_half_precision_bins() -> None:
    """Summed in float32: the result is within one rounding of the exact one."""
    maps, boxes, levels = maps_and_boxes(17, 30)
    halves = [jnp.asarray(one, jnp.bfloat16) for one in maps]
    gather = jax.jit(lambda maps, boxes: roi_align(maps, STRIDES, boxes, jnp.asarray(levels)))
    found = gather(halves, boxes.astype(np.float32))
    exact = gather([np.asarray(half, float) for half in halves], boxes)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(float), exact, rtol=2**-8, atol=1e-5)


def test_batch_equals_one_by_one() -> None:
    rng = np.random.default_rng(18)
    maps = [jnp.asarray(rng.normal(size=(3, *size, 2))) for size in SIZES]
    boxes = jnp.asarray(np.stack([anywhere(rng, 20) for _ in range(3)]))
    levels = jax.jit(jax.vmap(lambda boxes: roi_levels(boxes, lowest_size=20)))(boxes)
    gather = jax.jit(lambda maps, boxes, levels: roi_align(maps, STRIDES, boxes, levels))
    exact = jax.jit(partial(roi_align_exact, stride=8, most_samples=3))
    gathered, exactly = jax.jit(jax.vmap(gather))(maps, boxes, levels), jax.jit(jax.vmap(exact))(maps[1], boxes)
    for image in range(3):
        one = gather([level[image] for level in maps], boxes[image], levels[image])
        np.testing.assert_allclose(gathered[image], one, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(exactly[image], exact(maps[1][image], boxes[image]), rtol=1e-12, atol=1e-13)


@table("count", [0, 1, 16, 17])
def test_any_number_of_boxes(count: int) -> None:
    maps, boxes, levels = maps_and_boxes(19, count)
    exact = jax.jit(partial(roi_align_exact, stride=4, sampling_ratio=2))(maps[0], boxes)
    gathered = jax.jit(partial(roi_align, strides=STRIDES))(maps, boxes=boxes, levels=np.zeros_like(levels))
    assert exact.shape == (count, 7, 7, 3)
    np.testing.assert_allclose(gathered, exact, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("backward", [False, True])
def test_memory_is_well_below_all_samples_at_once(backward: bool) -> None:
    """512 boxes of 256 channels: 26 MB of bins, but 411 MB of cells around their samples."""
    maps = [jax.ShapeDtypeStruct((*size, 256), jnp.float32) for size in SIZES]
    boxes, levels = jax.ShapeDtypeStruct((512, 4), jnp.float32), jax.ShapeDtypeStruct((512,), jnp.int32)

    def forward(maps: list[jax.Array], boxes: jax.Array, levels: jax.Array) -> jax.Array:
        return roi_align(maps, STRIDES, boxes, levels)

    def gradient(maps: list[jax.Array], boxes: jax.Array, levels: jax.Array) -> list[jax.Array]:
        return jax.grad(lambda maps: jnp.square(forward(maps, boxes, levels)).sum())(maps)

    compiled = jax.jit(gradient if backward else forward).lower(maps, boxes, levels).compile()
    used = compiled.memory_analysis()
    assert used is not None
    assert used.temp_size_in_bytes < 130e6


LEVELS = [(0, 0, 0), (1, 1, 0), (111.9, 111.9, 0), (112, 112, 1), (56, 224, 1), (223.9, 223.9, 1), (224, 224, 2)]
LEVELS += [(112, 448, 2), (447.9, 447.9, 2), (448, 448, 3), (224, 896, 3), (1333, 800, 3), (1e6, 1e6, 3), (-5, 9, 0)]


@table("dtype", [np.float32, np.float64])
def test_levels(dtype: type) -> None:
    """A level per doubling from 112 pixels on, exactly at the powers of two."""
    boxes = np.array([[7, 9, 7 + width, 9 + height] for width, height, _ in LEVELS], dtype)
    found = jax.jit(roi_levels)(boxes)
    np.testing.assert_array_equal(found, [level for *_, level in LEVELS])
    assert found.dtype == jnp.int32


def test_levels_are_the_logarithm() -> None:
    boxes = oracles.random_boxes(np.random.default_rng(20), (2000,), 600)
    sizes = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    for lowest, levels in ((56, 4), (30, 3), (20, 6)):
        expected = np.clip(np.floor(np.log2(sizes / lowest + 1e-6)), 0, levels - 1)
        np.testing.assert_array_equal(roi_levels(jnp.asarray(boxes), lowest, levels), expected)


def test_mistakes_are_said() -> None:
    boxes, feature_map = jnp.zeros((1, 4)), jnp.zeros((4, 4, 1))
    with pytest.raises(UserError, match="1 maps but 2 strides"):
        roi_align([feature_map], (4, 8), boxes, jnp.zeros(1, jnp.int32))
    with pytest.raises(UserError, match="give sampling_ratio or most_samples"):
        roi_align_exact(feature_map, boxes, 4)
