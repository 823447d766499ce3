"""The operations as plain loops over Python numbers, written from their definitions alone."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

NEGATIVE, IGNORED = -1, -2


def random_boxes(rng: np.random.Generator, shape: tuple[int, ...], limit: int, whole: bool = False) -> np.ndarray:
    """float64 [*shape, 4] of boxes with area within a square of `limit`; with `whole`, on whole pixels: ties abound."""
    corners = np.sort(rng.uniform(0, limit, (*shape, 2, 2)), -2)
    if whole:
        corners = np.floor(corners)
        corners[..., 1, :] += 1
    else:
        corners[..., 1, :] += 0.01
    return corners.reshape(*shape, 4)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / max(sum(areas) - width * height, 1e-6)


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float, groups: np.ndarray, valid: np.ndarray) -> list[int]:
    """The indices of the boxes that a greedy walk from the best score down keeps, best first."""
    kept: list[int] = []
    for i in sorted(np.flatnonzero(valid).tolist(), key=lambda i: (-scores[i], i)):
        if all(groups[i] != groups[j] or iou(boxes[i].tolist(), boxes[j].tolist()) <= threshold for j in kept):
            kept.append(i)
    return kept


def assign(
    overlaps: np.ndarray,
    valid: np.ndarray,
    candidates: np.ndarray,
    positive: float,
    negative: float,
    min_positive: float,
    low_quality: bool,
) -> list[int]:
    """For each anchor the index of its box, −1 or −2, of overlaps [boxes, anchors]."""
    boxes, anchors = np.flatnonzero(valid).tolist(), np.flatnonzero(candidates).tolist()
    assigned = [IGNORED] * overlaps.shape[1]
    for anchor in anchors:
        best, owner = -1.0, -1
        for box in boxes:
            if overlaps[box, anchor] > best:
                best, owner = overlaps[box, anchor], box
        if best < negative:
            assigned[anchor] = NEGATIVE
        if best >= positive:
            assigned[anchor] = owner
    for box in boxes if low_quality else []:
        best = max((overlaps[box, anchor] for anchor in anchors), default=-1)
        for anchor in anchors:
            if best >= min_positive and overlaps[box, anchor] == best:
                assigned[anchor] = box
    return assigned


def roi_align_terms(
    height: int, width: int, box: Sequence[float], stride: int, bins: int, ratio: int | None, most: int | None = None
) -> Iterator[tuple[int, int, int, int, float]]:
    """(bin's row, bin's column, map's row, map's column, weight) of everything that RoIAlign adds up for one box."""
    x1, y1, x2, y2 = (side / stride - 0.5 for side in box)
    rows, columns = (ratio if ratio else math.ceil(size / bins) for size in (y2 - y1, x2 - x1))
    if most:
        rows, columns = min(rows, most), min(columns, most)
    for p, q, i, j in np.ndindex(bins, bins, max(rows, 0), max(columns, 0)):
        y = y1 + (y2 - y1) / bins * (p + (i + 0.5) / rows)
        x = x1 + (x2 - x1) / bins * (q + (j + 0.5) / columns)
        if not (-1 <= y <= height and -1 <= x <= width):
            continue
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        for row in {int(y), min(int(y) + 1, height - 1)}:
            for column in {int(x), min(int(x) + 1, width - 1)}:
                yield p, q, row, column, (1 - abs(y - row)) * (1 - abs(x - column)) / (rows * columns)


def roi_align(
    feature_map: np.ndarray, box: np.ndarray, stride: int, bins: int, ratio: int | None, most: int | None = None
) -> np.ndarray:
    """[bins, bins, c] of a map [h, w, c]."""
    result = np.zeros((bins, bins, feature_map.shape[-1]))
    height, width, _ = feature_map.shape
    for p, q, row, column, weight in roi_align_terms(height, width, box.tolist(), stride, bins, ratio, most):
        result[p, q] += weight * feature_map[row, column]
    return result


def roi_align_transposed(
    cotangent: np.ndarray, height: int, width: int, box: np.ndarray, stride: int, ratio: int | None
) -> np.ndarray:
    """[h, w, c]: what a cotangent [bins, bins, c] of the result means for the map."""
    result = np.zeros((height, width, cotangent.shape[-1]))
    for p, q, row, column, weight in roi_align_terms(height, width, box.tolist(), stride, len(cotangent), ratio):
        result[row, column] += weight * cotangent[p, q]
    return result
