"""Small networks of every family and form whose normalisations leave nothing as it is, and how to run their models."""

from collections import Counter
from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime
from flax import nnx

from cdnv2_jax import condense, create_model, prune
from cdnv2_jax.layers.norm import BatchNorm
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.family import model_entry
from cdnv2_jax.networks.network import Network
from tests.layers.random_norm import draw_norm
from tests.plain_models import SMALL_MOBILENET, SMALL_SHUFFLENET

V2 = ("cdnv2_a", "cdnv2_b", "cdnv2_c")
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "shufflenet, megvii": ("shufflenet_v2_x1_0", vars(SMALL_SHUFFLENET)),
    "shufflenet, torchvision": ("shufflenet_v2_x1_0", vars(SMALL_SHUFFLENET) | {"variant": "torchvision"}),
    "mobilenet": ("mobilenet_v2_x1_0", vars(SMALL_MOBILENET)),
}
NETWORKS = [
    *(f"{name} condensed" for name in V2),
    "cdnv2_a masked",
    *(f"condensenet_86 {form}" for form in ("masked", "condensed", "halved")),
    *PLAIN,
]
"""Some of what `small_network` makes."""


def small_network(what: str, *, whole: bool = False) -> Network:
    """A network by name and form, or one of `PLAIN`, in evaluation mode, with few layers or channels.

    Args:
      whole: with all layers and channels that it has in the registry.
    """
    if what in PLAIN:
        name, changes = PLAIN[what]
        return randomised(create_model(name, rngs=nnx.Rngs(0), **({} if whole else changes)))
    name, form = what.split()
    architecture = model_entry(name).architecture
    assert isinstance(architecture, CondenseNetArchitecture)
    changes = {} if whole else {"stages": (2, *[1] * (len(architecture.stages) - 1)), "num_classes": 7}
    network = randomised(create_model(name, rngs=nnx.Rngs(0), **changes))
    prune(network, network.condensation_stages)
    return network if form == "masked" else condense(network, halve_classifier=form == "halved")


def randomised(network: Network) -> Network:
    """The same network with scales, biases and statistics of its normalisations drawn anew, in evaluation mode."""
    random = np.random.default_rng(0)
    network.eval()
    for _, module in nnx.iter_modules(network):
        if isinstance(module, BatchNorm):
            draw_norm(module, random)
    return network


def logits_of(network: Network, images: np.ndarray) -> np.ndarray:
    """Our own network's, for images [b, h, w, 3]."""
    graph, state = nnx.split(network)
    return np.asarray(jax.jit(lambda state, images: nnx.merge(graph, state)(images))(state, images))


def run(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    """Every output of the model for images float32 [b, h, w, 3]."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})
    return [np.asarray(output) for output in found]


def operations(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes there are of each kind."""
    return Counter(node.op_type for node in model.graph.node)
