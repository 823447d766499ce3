"""RetinaNet as an ONNX model, from the image to the selected boxes."""

import onnx
from onnx import TensorProto

from cdnv2_jax.detection.retinanet import RetinaNet
from cdnv2_jax.detection.retinanet_head import RetinaNetHead
from cdnv2_jax.errors import UserError
from cdnv2_jax.export.onnx.backbone import backbone_maps
from cdnv2_jax.export.onnx.detections import decoded, every_anchor, selected
from cdnv2_jax.export.onnx.graph import Graph, Map
from cdnv2_jax.export.onnx.layers import activate, biased_conv
from cdnv2_jax.export.onnx.pyramid import pyramid
from cdnv2_jax.layers.valid_region import MULTIPLE


def retinanet_to_onnx(detector: RetinaNet, *, height: int, width: int) -> onnx.ModelProto:
    """The detector in evaluation mode, in float32, for one image at a time that fills its canvas.

    Input "images", float32 [1, 3, height, width], normalised. Outputs, anchors in the order (level, y, x, anchor):
      "logits": float32 [1, anchors, classes], of every class; their sigmoid is the score.
      "boxes": float32 [1, anchors, 4], x1, y1, x2, y2 in pixels, within the image.
      "selected": int64 [n, 3], what `detect` finds, best first: image (0), class and anchor, as NonMaxSuppression has
        them. Their scores are sigmoid(logits[0, anchor, class]), their boxes boxes[0, anchor].

    The selection is that of `RetinaNet.detect`, its limits on candidates included: the best `candidates_per_level`
    anchors of each level, of their pairs of box and class the best `nms_candidates`, suppression by class, the best
    `most_detections`. It differs in two things: whether a limit may have changed the result (`truncated`) is not said,
    and rounding may decide otherwise where two scores, or an overlap and the threshold, all but agree.

    Args:
      detector: its backbone masked, condensed or plain.
      height, width: of the canvas in pixels, multiples of 32.

    Raises:
      UserError: another canvas, a detector of another kind, or a backbone of one's own.
    """
    if not isinstance(detector, RetinaNet):
        raise UserError(f"only a RetinaNet can be exported to ONNX, not a {type(detector).__name__}")
    if min(height, width) < MULTIPLE or height % MULTIPLE or width % MULTIPLE:
        raise UserError(f"a canvas must be a multiple of {MULTIPLE} pixels on each side, got {height}×{width}")
    settings, graph = detector.settings, Graph()
    levels = pyramid(graph, detector.fpn, backbone_maps(graph, detector.backbone, Map("images", 3)))
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
    name = f"retinanet_{getattr(detector.backbone, 'name', 'backbone')}"
    return graph.model(
        name,
        images=[1, 3, height, width],
        outputs={
            "logits": (TensorProto.FLOAT, [1, count, settings.num_classes]),
            "boxes": (TensorProto.FLOAT, [1, count, 4]),
            "selected": (TensorProto.INT64, ["selected", 3]),
        },
        description=f"{name}: a normalised RGB image to scored boxes and which of them are detections",
    )


def head(graph: Graph, module: RetinaNetHead, x: Map) -> tuple[str, str]:
    """(class logits [1, n, c], deltas [1, n, 4]) of one level, n anchors in (y, x, anchor) order."""
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
            # Channels are (anchor, value): only behind the cells they line up anchor by anchor.
            cells = graph.add("Transpose", biased_conv(graph, last, h).name, perm=[0, 2, 3, 1])
            found.append(graph.add("Reshape", cells, graph.integers(1, -1, per_anchor)))
    return found[0], found[1]
