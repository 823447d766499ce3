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
from cdnv2_jax.layers.onnx_graph import Canvas, Graph, Map
from cdnv2_jax.layers.onnx_layers import activate, biased_conv
from cdnv2_jax.layers.valid_region import MULTIPLE

LEAST = float(np.finfo(np.float32).min)


def pyramid(graph: Graph, fpn: FPN, maps: Mapping[int, Map]) -> dict[int, Map]:
    """Return {stride: level}, finest first; `fpn` must have convolved top levels."""
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
    return Map(graph.add("Resize", x.name, "", scales, **how), x.channels, x.stride // 2)


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


def decoded(graph: Graph, deltas: Sequence[str], anchors: Sequence[np.ndarray], sizes: str) -> str:
    """Decode the boxes of all levels, [b, n, 4], clipped to the images; the output "boxes"."""
    low, high = np.split(np.concatenate(anchors), 2, axis=-1)
    centres, sides = (low + high) / 2, high - low
    with graph.scope("boxes"):
        shifts, stretches = graph.split(graph.add("Concat", *deltas, axis=1), 2, axis=2)
        shift = graph.add("Mul", shifts, graph.constant(sides, "sides"))
        centre = graph.add("Add", shift, graph.constant(centres, "centres"))
        limits = [graph.number(limit) for limit in (-LARGEST_STRETCH, LARGEST_STRETCH)]
        stretch = graph.add("Exp", graph.add("Clip", stretches, *limits))
        half = graph.add("Mul", stretch, graph.constant(sides / 2, "half_sides"))
        corners = graph.add("Concat", graph.add("Sub", centre, half), graph.add("Add", centre, half), axis=2)
        width_height = graph.add("Gather", graph.cast(sizes, np.float32), graph.integers(1, 0, 1, 0), axis=1)
        within = graph.add("Max", corners, graph.number(0))
        return graph.add("Min", within, graph.add("Unsqueeze", width_height, graph.integers(1)), output="boxes")


def selected(graph: Graph, logits: Sequence[str], boxes: str, counts: Sequence[int], settings: DetectorSettings) -> str:
    """Select the detections: [n, 3] with image, class and anchor, best first in each image; the output "selected".

    Args:
      logits: [b, n, c] of each level, −∞ for anchors that do not count.
      boxes: [b, n, 4] of all levels.
      counts: anchors of each level.
    """
    s = settings
    with graph.scope("selection"):
        anchors, candidates = best_of_levels(graph, logits, counts, s.candidates_per_level)
        number = sum(min(s.candidates_per_level, count) for count in counts)
        pairs = min(s.nms_candidates, number * s.num_classes)
        # Runtimes may clamp a sigmoid's argument, and return more than 0 for −∞.
        counted = graph.add("Greater", candidates, graph.number(LEAST))
        scored = graph.add("Where", counted, graph.add("Sigmoid", candidates), graph.number(0))
        flat = graph.add("Reshape", scored, graph.integers(0, number * s.num_classes))
        scores, places = graph.top_k(flat, graph.integers(pairs), axis=1)
        classes = graph.constant(np.array(s.num_classes))
        anchor = graph.add("GatherElements", anchors, graph.add("Div", places, classes), axis=1)
        label = graph.add("Mod", places, classes)
        kept = suppressed(graph, rows(graph, boxes, anchor), scores, label, s)
        best = first_of_each(graph, kept, places, s.most_detections)
        image, _ = graph.split(best, 2, axis=1)
        found = [
            graph.add("Unsqueeze", graph.add("GatherND", each, best), graph.integers(1)) for each in (label, anchor)
        ]
        return graph.add("Concat", image, *found, axis=1, output="selected")


def first_of_each(graph: Graph, kept: str, pairs: str, most: int) -> str:
    """Return the first `most` of the kept pairs of each image, which are sorted by score: int64 [n, 2], sorted.

    Args:
      kept: int64 [n, 2], images and pairs in any order.
      pairs: int64 [b, k], of any value.
    """
    ones = graph.add("Expand", graph.integers(1), graph.add("Gather", graph.add("Shape", kept), graph.integers(0)))
    marks = graph.add("ScatterND", graph.add("Sub", pairs, pairs), kept, ones)
    rank = graph.add("CumSum", marks, graph.constant(np.array(1)))
    is_first = graph.add("LessOrEqual", rank, graph.constant(np.array(most)))
    among = graph.add("And", graph.cast(marks, np.bool_), is_first)
    return graph.add("Transpose", graph.add("NonZero", among), perm=[1, 0])


def rows(graph: Graph, table: str, numbers: str) -> str:
    """Select rows of each image: [b, n, c] by int64 [b, k] → [b, k, c]."""
    return graph.add("GatherND", table, graph.add("Unsqueeze", numbers, graph.integers(2)), batch_dims=1)


def best_of_levels(graph: Graph, logits: Sequence[str], counts: Sequence[int], most: int) -> tuple[str, str]:
    """Return (anchors [b, m], logits [b, m, c]) with the best class scores in each level, numbered across levels."""
    anchors, candidates, before = [], [], 0
    for of_level, count in zip(logits, counts, strict=True):
        best = graph.add("ReduceMax", of_level, axes=[2], keepdims=0)
        _, places = graph.top_k(best, graph.integers(min(most, count)), axis=1)
        anchors.append(graph.add("Add", places, graph.constant(np.array(before))))
        candidates.append(rows(graph, of_level, places))
        before += count
    return graph.add("Concat", *anchors, axis=1), graph.add("Concat", *candidates, axis=1)


def suppressed(graph: Graph, boxes: str, scores: str, labels: str, settings: DetectorSettings) -> str:
    """Apply NMS within each class of each image; return the kept pairs of box [b, k, 4] and class, int64 [n, 2].

    Every pair has its own box, with a score in its own class and 0 in all others. The result names image and pair.
    """
    classes = graph.constant(np.arange(settings.num_classes)[:, None], "classes")
    own = graph.add("Equal", graph.add("Unsqueeze", labels, graph.integers(1)), classes)
    by_class = graph.add("Where", own, graph.add("Unsqueeze", scores, graph.integers(1)), graph.number(0))
    found = graph.add(
        "NonMaxSuppression",
        boxes,
        by_class,
        graph.integers(settings.most_detections),
        graph.constant(np.array([settings.nms_threshold], np.float32), "iou_threshold"),
        graph.constant(np.array([settings.score_threshold], np.float32), "score_threshold"),
    )
    return graph.add("Gather", found, graph.integers(0, 2), axis=1)


def retinanet_to_onnx(detector: RetinaNet, *, height: int, width: int) -> Any:
    """Build the ONNX model of a detector in evaluation mode, in float32, for any batch of images on a canvas.

    Inputs:
      "images": float32 [b, 3, height, width], normalised, each at the top left of its canvas, zeros beyond it.
      "sizes": int32 [b, 2], height and width of each image on its canvas.
    Outputs, anchors in the order (level, y, x, anchor):
      "logits": float32 [b, anchors, classes]; their sigmoid is the score. −∞ for the anchors of cells beyond the image.
      "boxes": float32 [b, anchors, 4], x1, y1, x2, y2 in pixels of the canvas, within the image.
      "selected": int64 [n, 3], the detections of `detect` in all images: image, class and anchor; images in ascending
        order, the best of each first. Scores are sigmoid(logits[image, anchor, class]), boxes are boxes[image, anchor].

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
    settings, graph = detector.settings, Graph(Canvas("sizes", height, width))
    with graph.scope("backbone"):
        maps = onnx_writer(detector.backbone).maps(graph, detector.backbone, Map("images", 3))
    logits, deltas = [], []
    for stride, x in pyramid(graph, detector.fpn, maps).items():
        with graph.scope(f"level_{stride}"):
            of_level = head(graph, detector.head, x)
        logits.append(of_level[0])
        deltas.append(of_level[1])
    anchors = every_anchor(settings, height, width)
    boxes = decoded(graph, deltas, anchors, "sizes")
    selected(graph, logits, boxes, [len(of_level) for of_level in anchors], settings)
    graph.add("Concat", *logits, axis=1, output="logits")
    count = sum(map(len, anchors))
    name = f"retinanet_{detector.backbone.name}"
    return graph.model(
        name,
        inputs={"images": (np.float32, ["batch", 3, height, width]), "sizes": (np.int32, ["batch", 2])},
        outputs={
            "logits": (np.float32, ["batch", count, settings.num_classes]),
            "boxes": (np.float32, ["batch", count, 4]),
            "selected": (np.int64, ["selected", 3]),
        },
        description=f"{name}: normalised RGB images to scored boxes and which of them are detections",
    )


def head(graph: Graph, module: RetinaNetHead, x: Map) -> tuple[str, str]:
    """Return (class logits [b, n, c], deltas [b, n, 4]) of one level, with n anchors in (y, x, anchor) order.

    The logits of anchors beyond an image are −∞.
    """
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
            y = biased_conv(graph, last, h).name
            if name == "class":
                is_inside = graph.cast(graph.region(x.stride), np.bool_)
                y = graph.add("Where", is_inside, y, graph.number(-np.inf))
            # Channels are (anchor, value): moved last, they reshape to one row per anchor.
            cells = graph.add("Transpose", y, perm=[0, 2, 3, 1])
            found.append(graph.add("Reshape", cells, graph.integers(0, -1, per_anchor)))
    return found[0], found[1]
