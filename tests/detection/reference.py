"""Detection's rules as plain NumPy loops, after mmdetection 2.11, for comparison."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.detection.ops import oracles

NEGATIVE, IGNORED = oracles.NEGATIVE, oracles.IGNORED


Numbers = Sequence[float] | np.ndarray


def assignment(objects: np.ndarray, anchors: np.ndarray, counted: np.ndarray, **rules: Any) -> np.ndarray:
    """For each anchor the number of its object, NEGATIVE or IGNORED; anchors that are not counted are IGNORED."""
    # In float32, in which anchors that lie alike have the same overlap.
    table = np.zeros((len(objects), len(anchors)), np.float32)
    for number, place in np.ndindex(*table.shape):
        table[number, place] = oracles.iou(objects[number].tolist(), anchors[place].tolist())
    return np.array(oracles.assign(table, np.ones(len(objects), bool), counted, **rules))


def code(anchor: Numbers, box: Numbers, deviations: Numbers = (1, 1, 1, 1)) -> np.ndarray:
    """Deltas from an anchor to a box."""
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    shift_x = ((box[0] + box[2]) - (anchor[0] + anchor[2])) / 2 / width
    shift_y = ((box[1] + box[3]) - (anchor[1] + anchor[3])) / 2 / height
    stretches = math.log((box[2] - box[0]) / width), math.log((box[3] - box[1]) / height)
    return np.array([shift_x, shift_y, *stretches]) / np.array(deviations)


def decoded(anchor: Numbers, deltas: Numbers, size: Sequence[int]) -> np.ndarray:
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
    count = len(scores)
    return oracles.nms(boxes, scores, threshold, np.zeros(count), np.ones(count, bool))


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
