"""The levels of a feature pyramid: which cells the image covers, and the anchors on them."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from cdnv2_jax.detection.ops.anchors import anchors_inside, cell_anchors, grid_anchors
from cdnv2_jax.layers.valid_region import halved, valid_mask

Maps = dict[int, jax.Array]
"""One array for each level, by its stride, from the finest on."""


def level_masks(sizes: jax.Array, height: int, width: int, strides: Sequence[int]) -> Maps:
    """{stride: bool [b, ⌈height / stride⌉, ⌈width / stride⌉, 1]}: the cells of each image, padded to 32 pixels.

    Args:
      sizes: int [b, 2], height and width of each image on its canvas.
      height, width: of the canvas.
      strides: powers of two.
    """
    mask, stride, masks = valid_mask(sizes, height, width), 1, {}
    while stride < max(strides):
        mask, stride = halved(mask), 2 * stride
        masks[stride] = mask
    return {stride: masks[stride] for stride in strides}


def level_anchors(maps: Mapping[int, jax.Array], scales: Sequence[float], ratios: Sequence[float]) -> list[np.ndarray]:
    """float32 [h · w · k, 4] for each level's map [b, h, w, c], in the order (y, x, ratio, scale)."""
    return [
        grid_anchors(cell_anchors(stride, scales, ratios), x.shape[1], x.shape[2], stride) for stride, x in maps.items()
    ]


def level_anchors_inside(maps: Mapping[int, jax.Array], sizes: jax.Array, per_cell: int) -> list[jax.Array]:
    """bool [b, h · w · k] for each level's map [b, h, w, c]: the anchors of the cells that each image covers."""

    def of_level(stride: int, height: int, width: int) -> jax.Array:
        return jax.vmap(lambda size: anchors_inside(size, height, width, stride, per_cell))(sizes)

    return [of_level(stride, *x.shape[1:3]) for stride, x in maps.items()]
