"""Masks and anchors of pyramid levels."""

import jax
import jax.numpy as jnp
import numpy as np

from cdnv2_jax.detectors.ops.anchors import level_anchors, level_anchors_inside, level_masks
from tests.detection.torch_layers import pyramid_shapes

STRIDES = (4, 8, 16, 32, 64, 128)


def maps_of(strides: tuple[int, ...], height: int, width: int, batch: int = 1):
    shapes = pyramid_shapes(strides, height, width, channels=1, batch=batch)
    return {stride: jnp.zeros(shape) for stride, shape in shapes.items()}


def test_masks_and_anchors_cover_the_same_cells() -> None:
    """A 33×64 image counts as 64×64, a 90×160 one as 96×160; two anchors per cell."""
    sizes = jnp.asarray([[33, 64], [90, 160]])

    @jax.jit
    def covered(sizes):
        maps = maps_of(STRIDES, 160, 224, batch=2)
        return level_masks(sizes, 160, 224, STRIDES), level_anchors_inside(maps, sizes, per_cell=2)

    masks, inside = covered(sizes)
    cells = {
        4: ((16, 16), (24, 40)),
        8: ((8, 8), (12, 20)),
        16: ((4, 4), (6, 10)),
        32: ((2, 2), (3, 5)),
        64: ((1, 1), (2, 3)),
        128: ((1, 1), (1, 2)),
    }
    for (stride, mask), anchors in zip(masks.items(), inside, strict=True):
        for image, (rows, columns) in enumerate(cells[stride]):
            expected = np.zeros(mask.shape[1:3], bool)
            expected[:rows, :columns] = True
            np.testing.assert_array_equal(mask[image, :, :, 0], expected)
            np.testing.assert_array_equal(anchors[image], np.repeat(expected.ravel(), 2))


def test_published_numbers_of_anchors() -> None:
    """On 800×1344."""
    rpn = level_anchors(maps_of((4, 8, 16, 32, 64), 800, 1344), (8,), (0.5, 1, 2))
    retinanet = level_anchors(maps_of((8, 16, 32, 64, 128), 800, 1344), (4, 5, 6), (0.5, 1, 2))
    assert sum(map(len, rpn)) == 268_569
    assert sum(map(len, retinanet)) == 201_600
    assert all(anchors.dtype == np.float32 for anchors in rpn)
