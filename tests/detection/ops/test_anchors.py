"""Anchors: known numbers, their order, and which of them an image covers."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cdnv2_jax.detectors.ops.anchors import anchors_inside, cell_anchors, grid_anchors
from tests.tables import table

compiled_inside = jax.jit(anchors_inside, static_argnums=(1, 2, 3, 4))

RPN = (8,)
RETINANET = (4, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))
RATIOS = (0.5, 1, 2)
CANVAS = (800, 1344)


def test_cell_of_stride_4() -> None:
    expected = [[-22.6274, -11.3137, 22.6274, 11.3137], [-16, -16, 16, 16], [-11.3137, -22.6274, 11.3137, 22.6274]]
    found = cell_anchors(4, RPN, RATIOS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_cell_is_ordered_by_ratio_then_scale() -> None:
    found = cell_anchors(16, RETINANET, RATIOS).astype(float)
    for index, (ratio, scale) in enumerate((ratio, scale) for ratio in RATIOS for scale in RETINANET):
        x1, y1, x2, y2 = found[index]
        np.testing.assert_allclose(
            ((y2 - y1) / (x2 - x1), (x2 - x1) * (y2 - y1)), (ratio, (16 * scale) ** 2), rtol=1e-6
        )
        np.testing.assert_array_equal((x1, y1), (-x2, -y2))


def map_sizes(strides: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(math.ceil(CANVAS[0] / stride), math.ceil(CANVAS[1] / stride)) for stride in strides]


@table("strides, scales, count", [((4, 8, 16, 32, 64), RPN, 268_569), ((8, 16, 32, 64, 128), RETINANET, 201_600)])
def test_counts_on_a_canvas(strides: tuple[int, ...], scales: tuple[float, ...], count: int) -> None:
    """And an image that fills the canvas leaves none of them out."""
    total = inside = 0
    for stride, (height, width) in zip(strides, map_sizes(strides), strict=True):
        cell = cell_anchors(stride, scales, RATIOS)
        anchors = grid_anchors(cell, height, width, stride)
        assert (anchors.shape, anchors.dtype) == ((height * width * len(cell), 4), np.float32)
        total += len(anchors)
        inside += int(compiled_inside(jnp.asarray(CANVAS), height, width, stride, len(cell)).sum())
    assert total == inside == count


def test_grid_is_ordered_by_row_column_and_anchor() -> None:
    cell = cell_anchors(8, RETINANET, RATIOS)
    expected = [
        anchor + np.array([x * 8, y * 8] * 2, np.float32) for y in range(3) for x in range(5) for anchor in cell
    ]
    np.testing.assert_array_equal(grid_anchors(cell, 3, 5, 8), expected)


@table("stride", [4, 8, 32, 64, 128])
def test_inside_is_where_the_padded_image_reaches(stride: int) -> None:
    """Sizes around multiples of 32 and of the stride, on a canvas of 256 × 320, against a loop over pixels."""
    height, width, per_cell = math.ceil(256 / stride), math.ceil(320 / stride), 2
    sizes = [(1, 320), (31, 32), (32, 33), (64, 65), (96, 129), (128, 127), (129, 128), (160, 200), (256, 320)]
    inside = jax.jit(jax.vmap(lambda size: anchors_inside(size, height, width, stride, per_cell)))
    for (image_height, image_width), found in zip(sizes, inside(jnp.asarray(sizes)), strict=True):
        reached = np.zeros((height, width, per_cell), bool)
        for y in range(-(-image_height // 32) * 32):
            reached[y // stride, 0] = True
        for x in range(-(-image_width // 32) * 32):
            reached[:, x // stride] |= reached[:, :1, 0]
        np.testing.assert_array_equal(found, reached.ravel())
