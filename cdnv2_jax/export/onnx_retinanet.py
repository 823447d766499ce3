"""RetinaNet as an ONNX model: feature pyramid, heads, box decoding and selection of detections."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdnv2_jax.detectors.fpn import FPN
from cdnv2_jax.detectors.ops.anchors import cell_anchors, grid_anchors
from cdnv2_jax.detectors.ops.boxes import LARGEST_STRETCH
from cdnv2_jax.detectors.retinanet import RetinaNet, RetinaNetHead
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.errors import UserError
from cdnv2_jax.export.onnx_file import onnx_writer
from cdnv2_jax.layers.onnx_graph import Graph, Map
from cdnv2_jax.layers.onnx_layers import activate, biased_conv
from cdnv2_jax.layers.valid_region import MULTIPLE


def pyramid(graph: Graph, fpn: FPN, maps: Mapping[int, Map]) -> dict[int, Map]:
    """Return {stride: level}, finest first, for images that fill their canvas; `fpn` must have convolved top levels."""
    levels: dict[int, Map] = {}
    with graph.scope("fpn"):
        merged = None
        for stride, lateral, output in reversed(list(zip(fpn.strides, fpn.laterals, fpn.outputs, strict=True))):
            x = biased_conv(graph, lateral, maps[stride])
            merged = x if merged is None else graph.apply("Add", x, doubled(graph, merged))
            levels[stride] = biased_conv(graph, output, merged)
        last = fpn.strides[-1]
        x = maps[last]
        for down in fpn.downs:
            x, last = biased_conv(graph, down, x), 2 * last
            levels[last] = x
    return dict(sorted(levels.items()))


def doubled(graph: Graph, x: Map) -> Map:
    """Upsample by 2, nearest neighbour."""
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32), "scales")
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return Map(graph.add("Resize", x.name, "", scales, **how), x.channels)


def every_anchor(settings: DetectorSettings, height: int, width: int) -> list[np.ndarray]:
    """Return the anchors of each level, float32 [n, 4], for a canvas of that size."""
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
    """Decode the boxes of all levels, [1, n, 4], clipped to the canvas; the output "boxes"."""
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
    """Select the detections: [n, 3] with image, class and anchor, best first; the output "selected".

    Args:
      logits: [1, n, c] of each level.
      boxes: [1, n, 4] of all levels.
      counts: anchors of each level.
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
    """Return (anchors [m], logits [1, m, c]) with the best class scores in each level, numbered across levels."""
    anchors, candidates, before = [], [], 0
    for of_level, count in zip(logits, counts, strict=True):
        best = graph.add("ReduceMax", of_level, axes=[0, 2], keepdims=0)
        _, places = graph.top_k(best, graph.integers(min(most, count)), axis=0)
        anchors.append(graph.add("Add", places, graph.constant(np.array(before))))
        candidates.append(graph.add("Gather", of_level, places, axis=1))
        before += count
    return graph.add("Concat", *anchors, axis=0), graph.add("Concat", *candidates, axis=1)


def suppressed(graph: Graph, boxes: str, scores: str, labels: str, settings: DetectorSettings) -> str:
    """Apply NMS within each class; return the positions of the kept pairs of box [1, k, 4] and class, int64 [n].

    Every pair has its own box, with a score in its own class and 0 in all others.
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
    """Return the `most` smallest of int64 [n], ascending: the best, since pairs are sorted by score."""
    count = graph.add("Min", graph.add("Shape", numbers), graph.integers(most))
    return graph.top_k(numbers, count, axis=0, largest=False)[0]


def column(graph: Graph, numbers: str) -> str:
    """Turn [n] into [n, 1]."""
    return graph.add("Unsqueeze", numbers, graph.integers(1))


def retinanet_to_onnx(detector: RetinaNet, *, height: int, width: int) -> Any:
    """Build the ONNX model of a detector in evaluation mode, in float32, for one image that fills its canvas.

    Input "images", float32 [1, 3, height, width], normalised. Outputs, anchors in the order (level, y, x, anchor):
      "logits": float32 [1, anchors, classes]; their sigmoid is the score.
      "boxes": float32 [1, anchors, 4], x1, y1, x2, y2 in pixels, within the image.
      "selected": int64 [n, 3], the detections of `detect`, best first: image (0), class and anchor, as returned by
        NonMaxSuppression. Scores are sigmoid(logits[0, anchor, class]), boxes are boxes[0, anchor].

    Detections are selected as in `RetinaNet.detect`, with its limits on candidates: the best `candidates_per_level`
    anchors of each level, their best `nms_candidates` pairs of box and class, suppression within each class, the best
    `most_detections`. There are two differences: no output says whether a limit may have changed the result
    (`truncated`), and rounding may decide differently where two scores, or an overlap and the threshold, nearly agree.

    Args:
      detector: a RetinaNet with a masked, condensed or plain backbone.
      height, width: of the canvas in pixels, multiples of 32.

    Raises:
      UserError: an invalid canvas, a detector of another kind, or a backbone whose family has no ONNX writer.
    """
    if not isinstance(detector, RetinaNet):
        raise UserError(f"only a RetinaNet can be exported to ONNX, not a {type(detector).__name__}")
    if min(height, width) < MULTIPLE or height % MULTIPLE or width % MULTIPLE:
        raise UserError(f"a canvas must be a multiple of {MULTIPLE} pixels on each side, got {height}×{width}")
    settings, graph = detector.settings, Graph()
    with graph.scope("backbone"):
        maps = onnx_writer(detector.backbone).maps(graph, detector.backbone, Map("images", 3))
    levels = pyramid(graph, detector.fpn, maps)
    logits, deltas = [], []
    for stride, x in levels.items():
        with graph.scope(f"level_{stride}"):
            of_level = head(graph, detector.head, x)
        logits.append(of_level[0])
        deltas.append(of_level[1])
    anchors = every_anchor(settings, height, width)
    boxes = decoded(graph, deltas, anchors, height, width)
    selected(graph, logits, boxes, [len(of_level) for of_level in anchors], settings)
    graph.add("Concat", *logits, axis=1, output="logits")
    count = sum(map(len, anchors))
    name = f"retinanet_{detector.backbone.name}"
    return graph.model(
        name,
        images=[1, 3, height, width],
        outputs={
            "logits": (np.float32, [1, count, settings.num_classes]),
            "boxes": (np.float32, [1, count, 4]),
            "selected": (np.int64, ["selected", 3]),
        },
        description=f"{name}: a normalised RGB image to scored boxes and which of them are detections",
    )


def head(graph: Graph, module: RetinaNetHead, x: Map) -> tuple[str, str]:
    """Return (class logits [1, n, c], deltas [1, n, 4]) of one level, with n anchors in (y, x, anchor) order."""
    found = []
    parts = (
        ("class", module.class_branch, module.classes, module.num_classes),
        ("box", module.box_branch, module.boxes, 4),
    )
    for name, branch, last, per_anchor in parts:
        with graph.scope(name):
            h = x
            for conv in branch:
                h = activate(graph, biased_conv(graph, conv, h), "relu")
            # Channels are (anchor, value): moved last, they reshape to one row per anchor.
            cells = graph.add("Transpose", biased_conv(graph, last, h).name, perm=[0, 2, 3, 1])
            found.append(graph.add("Reshape", cells, graph.integers(1, -1, per_anchor)))
    return found[0], found[1]
