"""A detector's backbone, of whichever family."""

from typing import Any

from cdnv2_jax.errors import UserError
from cdnv2_jax.export.onnx.condensenet import condensenet_maps
from cdnv2_jax.export.onnx.graph import Graph, Map
from cdnv2_jax.export.onnx.plain_networks import plain_maps
from cdnv2_jax.models.condensenet import CondenseNet
from cdnv2_jax.models.mobilenet_v2 import MobileNetV2
from cdnv2_jax.models.shufflenet_v2 import ShuffleNetV2


def backbone_maps(graph: Graph, backbone: Any, images: Map) -> dict[int, Map]:
    """{stride: map}, as `features` of our networks gives them, and finer ones.

    Raises:
      UserError: a backbone of one's own.
    """
    with graph.scope("backbone"):
        if isinstance(backbone, CondenseNet):
            return condensenet_maps(graph, backbone, images)
        if isinstance(backbone, ShuffleNetV2 | MobileNetV2):
            return plain_maps(graph, backbone, images)
    raise UserError(
        f"a detector on a {type(backbone).__name__} cannot be exported to ONNX, only one on a known network"
    )
