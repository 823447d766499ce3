"""Anchors: the boxes at fixed places from which a detector measures its predictions (Faster R-CNN, section 3.1.1)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cdnv2_jax.layers.valid_region import MULTIPLE


def cell_anchors(stride: int, scales: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """float32 [k, 4]: the anchors of one cell around (0, 0), in the order (ratio, scale); as mmdetection 2.11.

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
    """float32 [height · width · k, 4]: a cell's anchors at every cell of a map, in the order (y, x, ratio, scale).

    Args:
      cell: [k, 4], see `cell_anchors`.
      height, width: of the map, in cells.
      stride: pixels between cells; the first cell's centre is at (0, 0), as mmdetection 2.11.
    """
    y, x = np.meshgrid(np.arange(height) * stride, np.arange(width) * stride, indexing="ij")
    centres = np.stack([x, y, x, y], -1).astype(np.float32)
    return (centres[:, :, None] + cell.astype(np.float32)).reshape(-1, 4)


def anchors_inside(size: jax.Array, height: int, width: int, stride: int, per_cell: int) -> jax.Array:
    """bool [height · width · per_cell]: whether an anchor's cell lies within the image's own padded size.

    On a canvas that several images share, the cells beyond see no image; they would be background without end.

    Args:
      size: int [2], the image's height and width in pixels, before padding to a multiple of 32.
      height, width: of the map, in cells.
      stride: pixels between cells; a cell that the padded image covers in part counts.
      per_cell: anchors of one cell.
    """
    padded = -(-size // MULTIPLE) * MULTIPLE
    cells = -(-padded // stride)
    inside = (jnp.arange(height)[:, None] < cells[0]) & (jnp.arange(width) < cells[1])
    return jnp.repeat(inside.ravel(), per_cell)
