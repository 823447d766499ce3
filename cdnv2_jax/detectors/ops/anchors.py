"""Anchors: boxes at fixed places, relative to which a detector predicts boxes (Faster R-CNN, section 3.1.1)."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cdnv2_jax.layers.valid_region import MULTIPLE, halved, valid_mask


def cell_anchors(stride: int, scales: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """Return the anchors of a cell at (0, 0), float32 [k, 4] in the order (ratio, scale); as in mmdetection 2.11.

    Args:
      stride: pixels between cells, and the side of a square anchor of scale 1.
      scales: sides in strides.
      ratios: height / width; the area depends on the scale alone.
    """
    sides = stride * np.asarray(scales, np.float64)
    roots = np.sqrt(np.asarray(ratios, np.float64))
    heights = (roots[:, None] * sides).ravel()
    widths = (sides / roots[:, None]).ravel()
    return (np.stack([-widths, -heights, widths, heights], -1) / 2).astype(np.float32)


def grid_anchors(cell: np.ndarray, height: int, width: int, stride: int) -> np.ndarray:
    """Place a cell's anchors at every cell of a map: float32 [height · width · k, 4] in the order (y, x, ratio, scale).

    Args:
      cell: [k, 4], see `cell_anchors`.
      height, width: size of the map, in cells.
      stride: pixels between cells; the first cell's centre is at (0, 0), as in mmdetection 2.11.
    """
    y, x = np.meshgrid(np.arange(height) * stride, np.arange(width) * stride, indexing="ij")
    centres = np.stack([x, y, x, y], -1).astype(np.float32)
    return (centres[:, :, None] + cell.astype(np.float32)).reshape(-1, 4)


def anchors_inside(size: jax.Array, height: int, width: int, stride: int, per_cell: int) -> jax.Array:
    """Return whether each anchor's cell lies within the image's own padded size: bool [height · width · per_cell].

    On a canvas that is larger than the image, cells beyond the image would only add background.

    Args:
      size: int [2], the image's height and width in pixels, before padding to a multiple of 32.
      height, width: size of the map, in cells.
      stride: pixels between cells; a cell that the padded image covers in part counts.
      per_cell: anchors of one cell.
    """
    padded = -(-size // MULTIPLE) * MULTIPLE
    cells = -(-padded // stride)
    inside = (jnp.arange(height)[:, None] < cells[0]) & (jnp.arange(width) < cells[1])
    return jnp.repeat(inside.ravel(), per_cell)


Maps = dict[int, jax.Array]
"""One array per level, by stride, finest first."""


def level_masks(sizes: jax.Array, height: int, width: int, strides: Sequence[int]) -> Maps:
    """Return the cells of each image, padded to 32 pixels: {stride: bool [b, ⌈height / stride⌉, ⌈width / stride⌉, 1]}.

    Args:
      sizes: int [b, 2], height and width of each image on its canvas.
      height, width: size of the canvas, in pixels.
      strides: powers of two.
    """
    mask, stride, masks = valid_mask(sizes, height, width), 1, {}
    while stride < max(strides):
        mask, stride = halved(mask), 2 * stride
        masks[stride] = mask
    return {stride: masks[stride] for stride in strides}


def level_anchors(maps: Mapping[int, jax.Array], scales: Sequence[float], ratios: Sequence[float]) -> list[np.ndarray]:
    """Return the anchors of each level's map [b, h, w, c]: float32 [h · w · k, 4] in the order (y, x, ratio, scale)."""
    return [
        grid_anchors(cell_anchors(stride, scales, ratios), x.shape[1], x.shape[2], stride) for stride, x in maps.items()
    ]


def level_anchors_inside(maps: Mapping[int, jax.Array], sizes: jax.Array, per_cell: int) -> list[jax.Array]:
    """Return which anchors of each level's map [b, h, w, c] are on cells that the image covers: bool [b, h · w · k]."""

    def of_level(stride: int, height: int, width: int) -> jax.Array:
        return jax.vmap(lambda size: anchors_inside(size, height, width, stride, per_cell))(sizes)

    return [of_level(stride, *x.shape[1:3]) for stride, x in maps.items()]
