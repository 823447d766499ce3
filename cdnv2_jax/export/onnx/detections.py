"""From what RetinaNet's head says of every anchor to detections."""

from collections.abc import Sequence

import numpy as np

from cdnv2_jax.detection.ops.anchors import cell_anchors, grid_anchors
from cdnv2_jax.detection.ops.box_coder import LARGEST_STRETCH
from cdnv2_jax.detection.settings import DetectorSettings
from cdnv2_jax.export.onnx.graph import Graph


def every_anchor(settings: DetectorSettings, height: int, width: int) -> list[np.ndarray]:
    """float32 [n, 4] of each level, for a canvas of that size."""
    return [
        grid_anchors(
            cell_anchors(stride, settings.anchor_scales, settings.anchor_ratios),
            -(-height // stride),
            -(-width // stride),
            stride,
        )
        for stride in settings.strides
    ]


def decoded(graph: Graph, deltas: Sequence[str], anchors: Sequence[np.ndarray], height: int, width: int) -> str:
    """Boxes [1, n, 4] of all levels, cut to the canvas; the output "boxes"."""
    low, high = np.split(np.concatenate(anchors), 2, axis=-1)
    centres, sizes = (low + high) / 2, high - low
    with graph.scope("boxes"):
        shifts, stretches = graph.split(graph.add("Concat", *deltas, axis=1), 2, axis=2)
        shift = graph.add("Mul", shifts, graph.constant(sizes, "sizes"))
        centre = graph.add("Add", shift, graph.constant(centres, "centres"))
        limits = [graph.number(limit) for limit in (-LARGEST_STRETCH, LARGEST_STRETCH)]
        stretch = graph.add("Exp", graph.add("Clip", stretches, *limits))
        half = graph.add("Mul", stretch, graph.constant(sizes / 2, "half_sizes"))
        corners = graph.add("Concat", graph.add("Sub", centre, half), graph.add("Add", centre, half), axis=2)
        largest = graph.constant(np.array([width, height, width, height], np.float32), "largest")
        within = graph.add("Max", corners, graph.number(0))
        return graph.add("Min", within, largest, output="boxes")


def selected(graph: Graph, logits: Sequence[str], boxes: str, counts: Sequence[int], settings: DetectorSettings) -> str:
    """[n, 3]: image, class and anchor of the detections, best first; the output "selected".

    Args:
      logits: [1, n, c] of each level. boxes: [1, n, 4] of all levels. counts: anchors of each level.
    """
    s = settings
    with graph.scope("selection"):
        anchors, candidates = best_of_levels(graph, logits, counts, s.candidates_per_level)
        number = sum(min(s.candidates_per_level, count) for count in counts)
        pairs = min(s.nms_candidates, number * s.num_classes)
        flat = graph.add("Reshape", graph.add("Sigmoid", candidates), graph.integers(-1))
        scores, places = graph.top_k(flat, graph.integers(pairs), axis=0)
        classes = graph.constant(np.array(s.num_classes))
        anchor = graph.add("Gather", anchors, graph.add("Div", places, classes), axis=0)
        label = graph.add("Mod", places, classes)
        kept = suppressed(graph, graph.add("Gather", boxes, anchor, axis=1), scores, label, s)
        rows = [graph.constant(np.zeros((pairs, 1), np.int64)), column(graph, label), column(graph, anchor)]
        table = graph.add("Concat", *rows, axis=1)
        return graph.add("Gather", table, first(graph, kept, s.most_detections), axis=0, output="selected")


def best_of_levels(graph: Graph, logits: Sequence[str], counts: Sequence[int], most: int) -> tuple[str, str]:
    """(anchors [m], logits [1, m, c]): of each level the anchors with the best classes, numbered over all levels."""
    anchors, candidates, before = [], [], 0
    for of_level, count in zip(logits, counts, strict=True):
        best = graph.add("ReduceMax", of_level, axes=[0, 2], keepdims=0)
        _, places = graph.top_k(best, graph.integers(min(most, count)), axis=0)
        anchors.append(graph.add("Add", places, graph.constant(np.array(before))))
        candidates.append(graph.add("Gather", of_level, places, axis=1))
        before += count
    return graph.add("Concat", *anchors, axis=0), graph.add("Concat", *candidates, axis=1)


def suppressed(graph: Graph, boxes: str, scores: str, labels: str, settings: DetectorSettings) -> str:
    """int64 [n]: which of the pairs of box [1, k, 4] and class stay, numbered as they come.

    Every pair has a box of its own, with a score in its own class and none in the others.
    """
    classes = graph.constant(np.arange(settings.num_classes)[:, None], "classes")
    by_class = graph.add("Where", graph.add("Equal", labels, classes), scores, graph.number(0))
    found = graph.add(
        "NonMaxSuppression",
        boxes,
        graph.add("Unsqueeze", by_class, graph.integers(0)),
        graph.integers(settings.most_detections),
        graph.constant(np.array([settings.nms_threshold], np.float32), "iou_threshold"),
        graph.constant(np.array([settings.score_threshold], np.float32), "score_threshold"),
    )
    return graph.add("Gather", found, graph.constant(np.array(2)), axis=1)


def first(graph: Graph, numbers: str, most: int) -> str:
    """The smallest of int64 [n], in order: the best, where the better come first."""
    count = graph.add("Min", graph.add("Shape", numbers), graph.integers(most))
    return graph.top_k(numbers, count, axis=0, largest=False)[0]


def column(graph: Graph, numbers: str) -> str:
    """[n] → [n, 1]."""
    return graph.add("Unsqueeze", numbers, graph.integers(1))
