"""Classifiers as ONNX files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax.errors import UserError, import_optional
from cdnv2_jax.layers.onnx_graph import Graph, Map
from cdnv2_jax.networks.family import OnnxWriter, family_of
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.checksums import NO_DIGEST, ONNX_KEY, sealed, with_onnx_sum
from cdnv2_jax.weights.safetensors import KEY


def save_onnx(path: Path, model: Any, metadata: Mapping[str, Any]) -> None:
    """Write an `onnx.ModelProto` with metadata, as JSON, and the file's checksum in its `metadata_props`."""
    onnx = import_optional("onnx", "export")
    onnx.helper.set_model_props(model, {KEY: json.dumps(sealed(metadata)), ONNX_KEY: NO_DIGEST})
    path.write_bytes(with_onnx_sum(model.SerializeToString()))


def onnx_writer(network: Network) -> OnnxWriter:
    """Return the ONNX writer of a network's family; UserError if the family has none."""
    family = family_of(network.architecture)
    if family.onnx is None:
        raise UserError(f"the family {family.name!r} cannot be written as ONNX: give Family(…, onnx=…)")
    return family.onnx


def classifier_to_onnx(network: Network, *, image_size: int) -> Any:
    """Build the `onnx.ModelProto` of a network in evaluation mode, in float32 whatever the network's own dtype.

    Input "images", float32 [batch, channels, image_size, image_size], normalised; output "logits", float32
    [batch, classes]; any batch size. A BatchNorm is folded into the convolution directly before it, if there is one.
    The removed connections of a masked network are zeros in its kernels. The same network gives the same bytes.

    Args:
      network: a network from `create_model`, `condense` or `load`.
      image_size: side of the images in pixels.

    Raises:
      UserError: images of that size are too small, or the network's family has no ONNX writer.
    """
    network.architecture.check_image(image_size, image_size)
    channels = network.architecture.in_channels
    writer, graph = onnx_writer(network), Graph()
    *_, last = writer.maps(graph, network, Map("images", channels)).values()
    writer.head(graph, network, last)
    return graph.model(
        network.name,
        images=["batch", channels, image_size, image_size],
        outputs={"logits": (np.float32, ["batch", network.architecture.num_classes])},
        description=f"{network.name}, {network.form_name}: normalised images to logits",
    )
