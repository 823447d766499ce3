"""Classifiers as ONNX models."""

import onnx
from onnx import TensorProto

from cdnv2_jax.errors import UserError
from cdnv2_jax.export.onnx.condensenet import condensenet_logits
from cdnv2_jax.export.onnx.graph import Graph, Map
from cdnv2_jax.export.onnx.plain_networks import plain_logits
from cdnv2_jax.models.condensenet import CondenseNet
from cdnv2_jax.models.mobilenet_v2 import MobileNetV2
from cdnv2_jax.models.network import Network
from cdnv2_jax.models.shufflenet_v2 import ShuffleNetV2


def classifier_to_onnx(network: Network, *, image_size: int) -> onnx.ModelProto:
    """The network in evaluation mode, in float32 whatever it computes in here.

    Input "images", float32 [batch, 3, image_size, image_size], normalised; output "logits", float32 [batch, classes];
    any batch. Normalisations are part of convolutions wherever one comes right before them; removed connections of a
    masked network are zeros in its kernels. The same network gives the same bytes.

    Args:
      network: of `create_model`, `condense` or `load`.
      image_size: side of the images, pixels.

    Raises:
      UserError: images of that size are too small, or a network of another kind.
    """
    network.architecture.check_image(image_size, image_size)
    graph, images = Graph(), Map("images", 3)
    if isinstance(network, CondenseNet):
        condensenet_logits(graph, network, images)
    elif isinstance(network, ShuffleNetV2 | MobileNetV2):
        plain_logits(graph, network, images)
    else:
        raise UserError(f"a {type(network).__name__} cannot be exported to ONNX, only networks of `list_models()`")
    return graph.model(
        network.name,
        images=["batch", 3, image_size, image_size],
        outputs={"logits": (TensorProto.FLOAT, ["batch", network.architecture.num_classes])},
        description=f"{network.name}, {network.form_name}: normalised RGB images to logits",
    )
