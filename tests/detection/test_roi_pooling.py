"""Boxes pooled from the level of their size, whatever lies beyond the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdnv2_jax.detectors.faster_rcnn import pool_boxes
from cdnv2_jax.detectors.ops.anchors import level_masks
from tests.detection.tiny import random_boxes, tiny_settings
from tests.detection.torch_layers import pyramid_shapes, random_maps
from tests.twin_models import assert_near

STRIDES = (4, 8, 16, 32)
pool = jax.jit(pool_boxes, static_argnames="settings")


def masks_of(size: tuple[int, int], height: int, width: int, batch: int = 1):
    return level_masks(jnp.asarray([size] * batch), height, width, STRIDES)


@pytest.mark.parametrize("exact", [False, True])
def test_each_box_reads_its_level(exact: bool) -> None:
    """Maps that hold their stride; from 112 pixels on a box reads the next level."""
    maps = {s: jnp.full((1, 512 // s, 512 // s, 2), float(s)) for s in STRIDES}
    sides = [10, 60, 111, 113, 223, 225, 447, 449, 512]
    boxes = jnp.asarray([[[0, 0, side, side] for side in sides]], jnp.float32)
    found = pool(
        maps, masks_of((512, 512), 512, 512), boxes, settings=tiny_settings("faster_rcnn", exact_roi_align=exact)
    )
    assert found.shape == (1, 9, 7, 7, 2)
    expected = np.array([4, 4, 4, 8, 8, 16, 16, 32, 32])
    np.testing.assert_allclose(found[0], np.broadcast_to(expected[:, None, None, None], (9, 7, 7, 2)), rtol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_what_lies_beyond_the_image_changes_nothing(exact: bool) -> None:
    """An image of 64×96 whose boxes touch its edges, which RoIAlign reads half a cell beyond."""
    settings = tiny_settings("faster_rcnn", exact_roi_align=exact, roi_size=3)
    canvas = random_maps(pyramid_shapes(STRIDES, 128, 160, channels=3, batch=1))
    alone = {stride: x[:, : 64 // stride, : 96 // stride] for stride, x in canvas.items()}
    edges = np.array([[90, 0, 96, 10], [0, 60, 30, 64], [0, 0, 96, 64], [80, 50, 96, 64]], np.float32)
    boxes = jnp.asarray(np.concatenate([edges, random_boxes(np.random.default_rng(0), 10, 64, 96)])[None])
    expected = pool(alone, masks_of((64, 96), 64, 96), boxes, settings=settings)
    found = pool(canvas, masks_of((64, 96), 128, 160), boxes, settings=settings)
    assert_near(found, expected, 1e-5)


def test_no_gradient_reaches_what_lies_beyond_the_image() -> None:
    canvas = random_maps(pyramid_shapes(STRIDES, 128, 160, channels=3, batch=1))
    boxes, masks = jnp.asarray([[[0.0, 0, 96, 64], [80, 50, 96, 64]]]), masks_of((64, 96), 128, 160)
    settings = tiny_settings("faster_rcnn", roi_size=3)
    gradient = jax.jit(jax.grad(lambda maps: pool_boxes(maps, masks, boxes, settings).sum()))(canvas)
    assert gradient[4].any()
    for stride, x in gradient.items():
        assert not x.at[:, : 64 // stride, : 96 // stride].set(0).any()


def test_both_ways_agree_where_each_bin_has_two_samples() -> None:
    """Boxes of 3 to 6 cells of the finest map: two points per side of each of 3 bins in either case."""
    random = np.random.default_rng(0)
    sides, low = random.uniform(13, 23, (14, 2)), random.uniform(0, 100, (14, 2))
    boxes = jnp.asarray(np.concatenate([low, low + sides], -1)[None], jnp.float32)
    maps, masks = random_maps(pyramid_shapes(STRIDES, 128, 160, channels=3, batch=1)), masks_of((128, 160), 128, 160)
    gathered, exact = (
        pool(maps, masks, boxes, settings=tiny_settings("faster_rcnn", exact_roi_align=exact, roi_size=3))
        for exact in (False, True)
    )
    assert_near(exact, gathered, 1e-5)
