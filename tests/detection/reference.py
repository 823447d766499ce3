"""Detection's rules as plain NumPy loops, after mmdetection 2.11, for comparison."""

import math
from collections.abc import Sequence

import numpy as np

NEGATIVE, IGNORED = -1, -2


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU of two boxes."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return float(width * height / max(union, 1e-6))


def assignment(
    objects: np.ndarray,
    anchors: np.ndarray,
    counted: np.ndarray,
    *,
    positive: float,
    negative: float,
    min_positive: float,
    low_quality: bool,
) -> list[int]:
    """For each anchor the number of its object, NEGATIVE or IGNORED; anchors that are not counted are IGNORED."""
    table = np.array([[np.float32(overlap(o, a)) for a in anchors] for o in objects]).reshape(len(objects), -1)
    found = [IGNORED] * len(anchors)
    numbers = [n for n in range(len(anchors)) if counted[n]]
    for n in numbers:
        best = table[:, n].max() if len(objects) else 0.0
        if best < negative:
            found[n] = NEGATIVE
        if len(objects) and best >= positive:
            found[n] = int(table[:, n].argmax())
    if low_quality and numbers:
        for number in range(len(objects)):
            best = max(table[number, n] for n in numbers)
            if best >= min_positive:
                for n in numbers:
                    if table[number, n] == best:
                        found[n] = number
    return found


def code(anchor: Sequence[float], box: Sequence[float], deviations: Sequence[float] = (1, 1, 1, 1)) -> np.ndarray:
    """Deltas from an anchor to a box."""
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    shift_x = ((box[0] + box[2]) - (anchor[0] + anchor[2])) / 2 / width
    shift_y = ((box[1] + box[3]) - (anchor[1] + anchor[3])) / 2 / height
    stretches = math.log((box[2] - box[0]) / width), math.log((box[3] - box[1]) / height)
    return np.array([shift_x, shift_y, *stretches]) / np.array(deviations)


def decoded(anchor: Sequence[float], deltas: Sequence[float], size: Sequence[int]) -> np.ndarray:
    """The box that deltas make of an anchor, cut to an image of that (height, width)."""
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    limit = math.log(1000 / 16)
    x, y = (anchor[0] + anchor[2]) / 2 + deltas[0] * width, (anchor[1] + anchor[3]) / 2 + deltas[1] * height
    width *= math.exp(min(max(deltas[2], -limit), limit))
    height *= math.exp(min(max(deltas[3], -limit), limit))
    corners = [(x - width / 2, size[1]), (y - height / 2, size[0]), (x + width / 2, size[1]), (y + height / 2, size[0])]
    return np.array([min(max(corner, 0), most) for corner, most in corners])


def suppressed(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Greedy non-maximum suppression: numbers of the boxes that stay, best first."""
    kept: list[int] = []
    for number in np.argsort(-scores, kind="stable"):
        if all(overlap(boxes[number], boxes[other]) <= threshold for other in kept):
            kept.append(int(number))
    return kept


def class_wise(
    boxes: np.ndarray, scores: np.ndarray, *, score_threshold: float, nms_threshold: float, most: int
) -> list[tuple[float, int, tuple[float, ...]]]:
    """(score, label, box), best first: suppression within each class of scores [n, c], boxes [n, c, 4]."""
    found = []
    for label in range(scores.shape[1]):
        numbers = [n for n in range(len(scores)) if scores[n, label] > score_threshold]
        for place in suppressed(boxes[numbers, label], scores[numbers, label], nms_threshold):
            n = numbers[place]
            found.append((float(scores[n, label]), label, tuple(boxes[n, label].tolist())))
    return sorted(found, key=lambda one: -one[0])[:most]
