"""RoIAlign: pooling of the feature map under a box to a small map of fixed size (Mask R-CNN, section 3).

Each of the k × k bins of a box is the mean of bilinear samples on a regular grid within the bin. Coordinates are
"aligned": the centre of cell 0 is at half a stride. A sample more than one cell outside the map counts as zero, a
nearer one takes the value at the map's edge. Boxes get no gradient (as in mmdetection 2.11). Where only the upper left
part of a map belongs to the image, that is the map.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cdnv2_jax.detectors.ops.boxes import area, at_least_float32
from cdnv2_jax.errors import UserError

LEVEL_TOLERANCE = 1e-6
BOXES_AT_ONCE = 16
"""By products, each of which takes a stripe of the map per bin."""

BOXES_GATHERED_AT_ONCE = 64
"""By the compilers' figures for 16 to 1,000: a TPU keeps what belongs to so many on the chip."""


def roi_levels(boxes: jax.Array, lowest_size: float = 56, levels: int = 4) -> jax.Array:
    """Return the pyramid level for each of the boxes [n, 4], 0 being the finest: int32 [n].

    ⌊log2(√area / lowest_size + 1e-6)⌋, within 0 … levels − 1 (Feature Pyramid Networks, equation 1; constants as in
    mmdetection 2.11): the finest level below 2 · lowest_size pixels, then one level per doubling.
    """
    sizes = jnp.sqrt(area(lax.stop_gradient(boxes)))
    # Comparisons instead of the logarithm, whose rounding would decide at exact powers of two.
    bounds = [lowest_size * 2.0**level for level in range(1, levels)]
    passed = [sizes + LEVEL_TOLERANCE * lowest_size >= bound for bound in bounds]
    return sum((bound.astype(jnp.int32) for bound in passed), start=jnp.zeros(sizes.shape, jnp.int32))


def roi_align(
    maps: Sequence[jax.Array],
    strides: Sequence[int],
    boxes: jax.Array,
    levels: jax.Array,
    *,
    sizes: jax.Array | None = None,
    output_size: int = 7,
    sampling_ratio: int = 2,
) -> jax.Array:
    """Pool each box from the map of its level: [n, output_size, output_size, c].

    Besides arguments and result, this needs memory for a copy of both; with the gradient, for another of the maps.

    Args:
      maps: one [h_l, w_l, c] per level.
      strides: pixels of the image per cell, by level.
      boxes: [n, 4], x1, y1, x2, y2 in pixels of the image.
      levels: int [n], which map each box reads.
      sizes: int [number of levels, 2], rows and columns of each map that belong to the image; None for all.
      sampling_ratio: samples per bin and axis.

    Raises:
      UserError: the numbers of strides and maps differ.
    """
    if len(maps) != len(strides):
        raise UserError(f"roi_align has {len(maps)} maps but {len(strides)} strides: give one stride for each map")
    shapes = np.array([one.shape[:2] for one in maps], np.int32)
    cells_in_map = shapes.prod(1)
    within = jnp.asarray(shapes) if sizes is None else sizes
    tables = (within[:, 0], within[:, 1], strides, shapes[:, 1], np.cumsum(cells_in_map) - cells_in_map)
    flat = jnp.concatenate([one.reshape(-1, one.shape[-1]) for one in maps])

    def pool(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        boxes, levels = part
        height, width, stride, cells_in_row, offset = (
            jnp.asarray(table, jnp.int32).at[levels].get(mode="clip")[:, None, None] for table in tables
        )
        boxes = boxes[:, :, None, None]
        rows = _neighbours(boxes[:, 1], boxes[:, 3], stride, height, output_size, sampling_ratio)
        columns = _neighbours(boxes[:, 0], boxes[:, 2], stride, width, output_size, sampling_ratio)
        total = jnp.zeros((), jnp.float32)
        for row, row_weight in zip(*rows, strict=True):
            for column, column_weight in zip(*columns, strict=True):
                cells = offset + row[:, :, None] * cells_in_row + column[:, None, :]
                weights = row_weight[:, :, None] * column_weight[:, None, :]
                total += flat.at[cells].get(mode="clip") * weights[..., None]
        return total.astype(flat.dtype)

    return _in_parts(pool, BOXES_GATHERED_AT_ONCE, at_least_float32(lax.stop_gradient(boxes)), levels)


def roi_align_exact(
    feature_map: jax.Array,
    boxes: jax.Array,
    stride: int,
    *,
    size: jax.Array | None = None,
    output_size: int = 7,
    sampling_ratio: int | None = None,
    most_samples: int | None = None,
) -> jax.Array:
    """Pool boxes [n, 4] from one map [h, w, c] by matrix products: [n, output_size, output_size, c].

    Bilinear interpolation is separable, so a box's bins are Wy · F · Wxᵀ. Exact for any number of samples, but the
    cost grows with the map.

    Args:
      stride: pixels of the image per cell.
      size: int [2], rows and columns of the map that belong to the image; None for all.
      sampling_ratio: samples per bin and axis; None for ⌈size / output_size⌉, separately for each box and axis, which
        is at least one per cell. A box without extent then has no samples and a result of zeros.
      most_samples: upper limit on samples per bin and axis if `sampling_ratio` is None. On maps of at most N cells
        a side, ⌈N / output_size⌉ is no restriction.

    Raises:
      UserError: neither `sampling_ratio` nor `most_samples` is given.
    """
    most = most_samples if sampling_ratio is None else sampling_ratio
    if most is None:
        raise UserError("roi_align_exact has no bound on its samples: give sampling_ratio or most_samples")
    shape = feature_map.shape[:2]
    within = jnp.asarray(shape) if size is None else size

    def one(box: jax.Array) -> jax.Array:
        x1, y1, x2, y2 = box / stride
        rows = _interpolation(y1, y2, shape[0], within[0], output_size, sampling_ratio is None, most)
        columns = _interpolation(x1, x2, shape[1], within[1], output_size, sampling_ratio is None, most)
        stripes = jnp.einsum("ph,hwc->pwc", rows, feature_map, precision=lax.Precision.HIGHEST)
        return jnp.einsum("qw,pwc->pqc", columns, stripes, precision=lax.Precision.HIGHEST)

    # All boxes at once would need memory for a stripe of the map's full width per box and bin.
    bins = lax.map(one, at_least_float32(lax.stop_gradient(boxes)), batch_size=BOXES_AT_ONCE)
    return bins.astype(feature_map.dtype)


def _positions(
    start: jax.Array, size: jax.Array, bins: int, most: int, samples: jax.Array | int, length: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
    """Return where in [0, length − 1] samples lie along an axis, and whether they count: [..., bins, most], bool alike.

    Args:
      start, size: [..., 1, 1], start and extent of the boxes in cells, from the edge of the first cell.
      most: samples to lay out per bin, of which the first `samples` ([..., 1, 1]) divide a bin evenly.
    """
    within_bin = (jnp.arange(most) + 0.5) / samples
    positions = start - 0.5 + (jnp.arange(bins)[:, None] + within_bin) * (size / bins)
    counts = (positions >= -1) & (positions <= length)
    return jnp.clip(positions, 0, length - 1), counts


def _neighbours(
    low: jax.Array, high: jax.Array, stride: jax.Array, length: jax.Array, bins: int, samples: int
) -> tuple[jax.Array, jax.Array]:
    """Return the two cells around each sample along an axis, int32 [2 · samples, n, bins], and their weights.

    Args:
      low, high: [n, 1, 1], edges of the boxes along this axis, in pixels.
      stride, length: [n, 1, 1], stride of their maps, and length in cells.
    """
    positions, counts = _positions(low / stride, (high - low) / stride, bins, samples, samples, length)
    before = jnp.floor(positions)
    share = positions - before
    before = before.astype(jnp.int32)
    after = jnp.minimum(before + 1, length - 1)
    cells = jnp.concatenate([before, after], -1)
    weights = jnp.concatenate([jnp.where(counts, 1 - share, 0), jnp.where(counts, share, 0)], -1) / samples
    return jnp.moveaxis(cells, -1, 0), jnp.moveaxis(weights, -1, 0)


def _in_parts(function: Callable[..., jax.Array], most: int, *arrays: jax.Array) -> jax.Array:
    """Map a function of a tuple of arrays over equal parts of at most `most` rows, and join the results.

    `lax.map` with a `batch_size` would compile the function twice, for what remains as well.
    """
    rows = len(arrays[0])
    parts = max(1, -(-rows // most))
    size = -(-rows // parts)

    def cut(array: jax.Array) -> jax.Array:
        padded = jnp.pad(array, [(0, parts * size - rows)] + [(0, 0)] * (array.ndim - 1))
        return padded.reshape(parts, size, *array.shape[1:])

    results = lax.map(function, tuple(cut(array) for array in arrays))
    return results.reshape(parts * size, *results.shape[2:])[:rows]


def _interpolation(
    low: jax.Array, high: jax.Array, cells: int, length: jax.Array, bins: int, adaptive: bool, most: int
) -> jax.Array:
    """Return the weights of a map's cells along an axis in the bins of one box: [bins, cells].

    Args:
      low, high: edges of the box along this axis, in cells.
      length: the first so many of the cells belong to the image.
      adaptive: take ⌈(high − low) / bins⌉ samples, at most `most`; otherwise `most`.
    """
    size = high - low
    # Sample s exists if s < ⌈size / bins⌉, written without a division, which may round up past an integer.
    exists = jnp.arange(most) * bins < size if adaptive else jnp.ones(most, bool)
    samples = jnp.maximum(exists.sum(), 1)
    positions, counts = _positions(low, size, bins, most, samples, length)
    hats = jnp.maximum(0, 1 - jnp.abs(positions[..., None] - jnp.arange(cells)))
    return jnp.where((counts & exists)[..., None], hats, 0).sum(1) / samples
