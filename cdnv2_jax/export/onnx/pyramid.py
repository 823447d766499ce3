"""The feature pyramid of RetinaNet."""

from collections.abc import Mapping

import numpy as np

from cdnv2_jax.detection.fpn import FPN
from cdnv2_jax.export.onnx.graph import Graph, Map
from cdnv2_jax.export.onnx.layers import biased_conv


def pyramid(graph: Graph, fpn: FPN, maps: Mapping[int, Map]) -> dict[int, Map]:
    """{stride: level}, from the finest on, of images that fill their canvas; `fpn` has convolved levels on top."""
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
    """Nearest upsampling by 2."""
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32), "scales")
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return Map(graph.add("Resize", x.name, "", scales, **how), x.channels)
