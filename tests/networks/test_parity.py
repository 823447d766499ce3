"""The network against the PyTorch twin in float64: layer by layer, then whole; outputs, gradients, statistics."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from flax import nnx
from torch import Tensor

from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.network import Architecture
from tests.torch_twin import CondenseNetTwin
from tests.torch_twin.network import DenseLayer as TwinDenseLayer
from tests.twin_models import (
    SMALL_V1,
    SMALL_V2,
    assert_all_near,
    assert_near,
    call,
    derivatives,
    jax_model,
    mask_at_random,
    nhwc,
    random_images,
    random_twin,
    tensors_of,
)

pytestmark = pytest.mark.usefixtures("x64")

ARCHITECTURES = {
    "v2": SMALL_V2,
    "v1": SMALL_V1,
    "v2 without head": SMALL_V2.override({"stages": (2,), "growth": (8,), "hard_swish_from": 0, "head_width": None}),
}
"""By what they are called; the last has SFR and the plain head of v1."""

IMAGES = random_images(3, 21, 27)


class Network(NamedTuple):
    """A network with random masks in PyTorch, and what it takes to rebuild it in JAX."""

    architecture: Architecture
    twin: CondenseNetTwin

    def model(self, *, training: bool) -> CondenseNet:
        """The twin in JAX, as it is now."""
        model = jax_model(self.twin, self.architecture)
        model.train() if training else model.eval()
        return model


@pytest.fixture(scope="module", params=ARCHITECTURES.values(), ids=list(ARCHITECTURES))
def network(request: pytest.FixtureRequest, x64: None) -> Network:
    twin = random_twin(request.param)
    mask_at_random(twin)
    return Network(request.param, twin)


def backward(network: Network, cotangent: np.ndarray, *, training: bool) -> tuple[Tensor, Tensor]:
    """The twin's images, with their gradient, and logits; its parameters hold their gradients."""
    network.twin.train(training)
    network.twin.zero_grad()
    images = torch.from_numpy(IMAGES).requires_grad_()
    logits = network.twin(images)
    logits.backward(torch.from_numpy(cotangent))
    return images, logits.detach()


def gradients_of(twin: CondenseNetTwin) -> dict[str, np.ndarray]:
    """By official key; every parameter has one."""
    gradients = {key: p.grad.numpy() for key, p in twin.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(twin.parameters()))
    return gradients


def random_cotangent(architecture: Architecture) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(IMAGES), architecture.num_classes))


def test_block_outputs(network: Network) -> None:
    network.twin.eval()
    model = network.model(training=False)
    ours = call(model, lambda model, images: list(model.block_outputs(images)), nhwc(IMAGES))
    for found, expected in zip(ours, network.twin.block_features(torch.from_numpy(IMAGES)), strict=True):
        assert_near(found, nhwc(expected), 1e-10)


def test_each_dense_layer(network: Network) -> None:
    """Fed with what the twin's layer gets in training, each layer returns its output and its gradients."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        inputs[0].retain_grad()
        output.retain_grad()
        seen.append((inputs[0], output))

    twin_layers = [layer for layer in network.twin.modules() if isinstance(layer, TwinDenseLayer)]
    hooks = [layer.register_forward_hook(note) for layer in twin_layers]
    model = network.model(training=True)
    backward(network, random_cotangent(network.architecture), training=True)
    for hook in hooks:
        hook.remove()
    gradients = nnx.clone(model)
    layers = zip(model.dense_layers(), gradients.dense_layers(), seen, strict=True)
    for number, (layer, layer_gradients, (x, output)) in enumerate(layers, start=1):
        assert x.grad is not None and output.grad is not None
        found = derivatives(layer, nhwc(x), nhwc(output.grad))
        assert_near(found.output, nhwc(output), 1e-10, f"output of dense layer {number}")
        assert_near(found.inputs, nhwc(x.grad), 1e-10, f"gradient of the input of dense layer {number}")
        nnx.update(layer_gradients, nnx.state(found.parameters, nnx.Param))
    expected = {key: value for key, value in gradients_of(network.twin).items() if ".denselayer_" in key}
    assert_all_near(tensors_of(gradients), expected, 1e-10)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_whole_network(network: Network, training: bool) -> None:
    """Logits, gradients of all parameters and the images, running statistics; removed weights have no gradient."""
    cotangent = random_cotangent(network.architecture)
    model = network.model(training=training)
    before = tensors_of(model)
    found = derivatives(model, nhwc(IMAGES), cotangent)
    gradients, stepped = tensors_of(found.parameters), tensors_of(found.stepped)
    images, logits = backward(network, cotangent, training=training)
    assert images.grad is not None
    assert_near(found.output, logits.numpy(), 1e-10)
    assert_near(found.inputs, nhwc(images.grad), 1e-10)
    assert_all_near(gradients, gradients_of(network.twin), 1e-10)
    statistics = {key: tensor.numpy() for key, tensor in network.twin.state_dict().items() if is_statistic(key)}
    assert_all_near(stepped, statistics, 1e-10)
    assert all((stepped[key] != before[key]).any() == training for key in statistics)
    masks = {key: value for key, value in before.items() if key.endswith("._mask")}
    assert len(masks) == len(list(model.masked_convs()))
    for key, mask in masks.items():
        gradient = gradients[key.replace("._mask", ".conv.weight")]
        assert (gradient[mask == 0] == 0).all() and gradient.any()


def is_statistic(key: str) -> bool:
    return key.rsplit(".", 1)[-1] in ("running_mean", "running_var", "num_batches_tracked")
