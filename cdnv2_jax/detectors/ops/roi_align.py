"""RoIAlign: the part of a feature map under a box, as a small map of fixed size (Mask R-CNN, section 3).

Each of the k × k bins of a box is the mean of bilinear samples on a regular grid within the bin. Coordinates are
"aligned": the centre of cell 0 is at half a stride. A sample more than a cell outside the map counts as zero, one
nearer as the map's edge. No gradient goes to the boxes (as mmdetection 2.11).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cdnv2_jax.detectors.ops.boxes import area
from cdnv2_jax.errors import UserError

LEVEL_TOLERANCE = 1e-6
BOXES_AT_ONCE = 16


def roi_levels(boxes: jax.Array, lowest_size: float = 56, levels: int = 4) -> jax.Array:
    """int32 [n]: the level of a feature pyramid that serves each of the boxes [n, 4], 0 the finest.

    ⌊log2(√area / lowest_size + 1e-6)⌋, within 0 … levels − 1 (Feature Pyramid Networks, equation 1; constants as
    mmdetection 2.11): below 2 · lowest_size pixels the finest level, from there one level per doubling.
    """
    sizes = jnp.sqrt(area(lax.stop_gradient(boxes)))
    # Comparisons instead of the logarithm, whose rounding would decide at the exact powers of two.
    bounds = [lowest_size * 2.0**level for level in range(1, levels)]
    passed = [sizes + LEVEL_TOLERANCE * lowest_size >= bound for bound in bounds]
    return sum((bound.astype(jnp.int32) for bound in passed), start=jnp.zeros(sizes.shape, jnp.int32))


def roi_align(
    maps: Sequence[jax.Array],
    strides: Sequence[int],
    boxes: jax.Array,
    levels: jax.Array,
    *,
    output_size: int = 7,
    sampling_ratio: int = 2,
) -> jax.Array:
    """[n, output_size, output_size, c]: the bins of each box, from the map of its level.

    The memory beside arguments and result is a copy of the maps and two arrays of the result's size, also for the
    gradient.

    Args:
      maps: one [h_l, w_l, c] per level.
      strides: pixels of the image per cell, by level.
      boxes: [n, 4], x1, y1, x2, y2 in pixels of the image.
      levels: int [n], which map each box reads.
      sampling_ratio: samples per bin and axis.

    Raises:
      UserError: there are not as many strides as maps.
    """
    if len(maps) != len(strides):
        raise UserError(f"roi_align has {len(maps)} maps but {len(strides)} strides: give one stride for each map")
    shapes = np.array([one.shape[:2] for one in maps], np.int32)
    cells_in_map = shapes.prod(1)
    height, width, stride, offset = (
        jnp.asarray(table, jnp.int32).at[levels].get(mode="clip")[:, None, None]
        for table in (shapes[:, 0], shapes[:, 1], strides, np.cumsum(cells_in_map) - cells_in_map)
    )
    boxes = lax.stop_gradient(boxes)[:, :, None, None]
    rows, row_weights = _neighbours(boxes[:, 1], boxes[:, 3], stride, height, output_size, sampling_ratio)
    columns, column_weights = _neighbours(boxes[:, 0], boxes[:, 2], stride, width, output_size, sampling_ratio)
    cells = offset + rows[:, None, :, :, None] * width + columns[None, :, :, None, :]
    weights = row_weights[:, None, :, :, None] * column_weights[None, :, :, None, :]
    flat = jnp.concatenate([one.reshape(-1, one.shape[-1]) for one in maps])
    return _weighted_sum(flat, jnp.concatenate(cells), jnp.concatenate(weights))


def roi_align_exact(
    feature_map: jax.Array,
    boxes: jax.Array,
    stride: int,
    *,
    output_size: int = 7,
    sampling_ratio: int | None = None,
    most_samples: int | None = None,
) -> jax.Array:
    """[n, output_size, output_size, c]: the bins of boxes [n, 4] on one map [h, w, c], by matrix products.

    Bilinear interpolation is separable, so a box's bins are Wy · F · Wxᵀ. Exact for any number of samples, but of a
    cost that grows with the map.

    Args:
      stride: pixels of the image per cell.
      sampling_ratio: samples per bin and axis; None: ⌈size / output_size⌉, for each box and axis its own, so that
        there is at least one per cell; none at all, and a result of zeros, for a box without extent.
      most_samples: with None above, the most samples per bin and axis; larger boxes get this many. On maps of
        at most N cells a side, ⌈N / output_size⌉ changes nothing.

    Raises:
      UserError: neither of the two is given.
    """
    most = most_samples if sampling_ratio is None else sampling_ratio
    if most is None:
        raise UserError("roi_align_exact has no bound on its samples: give sampling_ratio or most_samples")
    height, width, _ = feature_map.shape

    def one(box: jax.Array) -> jax.Array:
        x1, y1, x2, y2 = box / stride
        rows = _interpolation(y1, y2, height, output_size, sampling_ratio is None, most)
        columns = _interpolation(x1, x2, width, output_size, sampling_ratio is None, most)
        stripes = jnp.einsum("ph,hwc->pwc", rows, feature_map, precision=lax.Precision.HIGHEST)
        return jnp.einsum("qw,pwc->pqc", columns, stripes, precision=lax.Precision.HIGHEST)

    # All boxes at once would hold a stripe of the whole width for each bin of each.
    bins = lax.map(one, lax.stop_gradient(boxes), batch_size=BOXES_AT_ONCE)
    return bins.astype(feature_map.dtype)


def _positions(
    start: jax.Array, size: jax.Array, bins: int, most: int, samples: jax.Array | int, length: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
    """([..., bins, most], bool alike): where in [0, length − 1] samples lie along an axis, and whether they count.

    Args:
      start, size: [..., 1, 1] of the boxes, in cells, from the edge of the first.
      most: samples to lay out per bin, of which the first `samples` ([..., 1, 1]) divide a bin evenly.
    """
    within_bin = (jnp.arange(most) + 0.5) / samples
    positions = start - 0.5 + (jnp.arange(bins)[:, None] + within_bin) * (size / bins)
    counts = (positions >= -1) & (positions <= length)
    return jnp.clip(positions, 0, length - 1), counts


def _neighbours(
    low: jax.Array, high: jax.Array, stride: jax.Array, length: jax.Array, bins: int, samples: int
) -> tuple[jax.Array, jax.Array]:
    """(int32 [2 · samples, n, bins], weights alike): the two cells around each sample along an axis of boxes.

    Args:
      low, high: [n, 1, 1] of the boxes along this axis, in pixels.
      stride, length: [n, 1, 1] of their maps; length in cells.
    """
    positions, counts = _positions(low / stride, (high - low) / stride, bins, samples, samples, length)
    before = jnp.floor(positions)
    share = positions - before
    before = before.astype(jnp.int32)
    after = jnp.minimum(before + 1, length - 1)
    cells = jnp.concatenate([before, after], -1)
    weights = jnp.concatenate([jnp.where(counts, 1 - share, 0), jnp.where(counts, share, 0)], -1) / samples
    return jnp.moveaxis(cells, -1, 0), jnp.moveaxis(weights, -1, 0)


def _weighted_sum(flat: jax.Array, cells: jax.Array, weights: jax.Array) -> jax.Array:
    """Σ over t of weights[t] · flat[cells[t]]: flat [p, c], cells and weights [t, ...] → [..., c]."""

    # One t after another: all gathered cells at once would take t times the memory of the result.
    def add(total: jax.Array, term: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        cells, weights = term
        return total + flat.at[cells].get(mode="clip") * weights[..., None], None

    start = jnp.zeros((*cells.shape[1:], flat.shape[-1]), jnp.result_type(flat, weights))
    return lax.scan(add, start, (cells, weights))[0].astype(flat.dtype)


def _interpolation(low: jax.Array, high: jax.Array, length: int, bins: int, adaptive: bool, most: int) -> jax.Array:
    """[bins, length]: the weights with which a map's cells along an axis enter the bins of one box.

    Args:
      low, high: of the box along this axis, in cells.
      adaptive: ⌈(high − low) / bins⌉ samples, at most `most`; otherwise `most`.
    """
    size = high - low
    # Sample s exists where s < ⌈size / bins⌉, said without a division that may round up past a whole number.
    exists = jnp.arange(most) * bins < size if adaptive else jnp.ones(most, bool)
    samples = jnp.maximum(exists.sum(), 1)
    positions, counts = _positions(low, size, bins, most, samples, length)
    hats = jnp.maximum(0, 1 - jnp.abs(positions[..., None] - jnp.arange(length)))
    return jnp.where((counts & exists)[..., None], hats, 0).sum(1) / samples
