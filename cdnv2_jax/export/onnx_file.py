"""Classifiers as ONNX files, written and run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from cdnv2_jax.errors import UserError, import_optional, one_line
from cdnv2_jax.export.metadata import KEY
from cdnv2_jax.export.verify import Forward
from cdnv2_jax.layers.onnx_graph import Graph, Map
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.mobilenet_v2 import MobileNetV2
from cdnv2_jax.networks.network import Network
from cdnv2_jax.networks.onnx_maps import condensenet_logits, plain_logits
from cdnv2_jax.networks.shufflenet_v2 import ShuffleNetV2


def save_onnx(path: Path, model: Any, metadata: Mapping[str, Any]) -> None:
    """Writes an `onnx.ModelProto` with metadata, JSON values, in its `metadata_props`."""
    onnx = import_optional("onnx", "export")
    onnx.helper.set_model_props(model, {KEY: json.dumps(metadata)})
    onnx.save_model(model, path)


def open_session(path: Path) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU; UserError when the file is none of ONNX's."""
    onnxruntime = import_optional("onnxruntime", "export")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and said once
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each of its errors has a class of its own
        raise UserError(f"{path} is no ONNX file that ONNX Runtime can run ({one_line(error)})") from error


def run_session(
    path: Path, session: Any, outputs: list[str] | None, inputs: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """The outputs by name, None for all; UserError when the graph cannot take these inputs."""
    try:
        return session.run(outputs, dict(inputs))
    except Exception as error:  # as above
        raise UserError(f"{path} does not run ({one_line(error)}): export it again") from error


def onnx_forward(path: Path) -> Forward:
    """The classifier at `path`, which takes images channels first, as a function of images channels last."""
    session = open_session(path)

    def forward(images: np.ndarray) -> np.ndarray:
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return run_session(path, session, ["logits"], {"images": channels_first})[0]

    return forward


def read_onnx_metadata(path: Path) -> str:
    """The metadata in the file at `path`, as text; UserError when there is none."""
    found = open_session(path).get_modelmeta().custom_metadata_map
    if KEY not in found:
        raise UserError(f"{path} does not say how it is used: only files that `main.py export` wrote do")
    return found[KEY]


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
