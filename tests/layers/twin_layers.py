"""One layer in JAX and in the PyTorch twin: the same weights in both, outputs and gradients compared.

The layouts are written out here a second time, so that the layers' tests do not rest on `cdnv2_jax.weights`.
"""

import operator
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import Tensor
from torch import nn as tnn

from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedLinear, CondensedReactivation
from cdnv2_jax.layers.convolutions import NormActConv, SqueezeExcite
from cdnv2_jax.layers.learned import LearnedGroupConv, SparseFeatureReactivation
from cdnv2_jax.layers.norm import BatchNorm
from tests.torch_twin.layers import hard_swish
from tests.twin_models import Derivatives, assert_near, derivatives, nhwc

ACTIVATIONS = {"relu": torch.relu, "hard_swish": hard_swish}

_NORM = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "batches": "num_batches_tracked",
}
_NORM_CONV = {f"norm.{ours}": f"norm.{theirs}" for ours, theirs in _NORM.items()} | {"kernel": "conv.weight"}
_NAMES: dict[type[nnx.Module], dict[str, str]] = {
    BatchNorm: _NORM,
    SqueezeExcite: {"squeeze.kernel": "fc.0.weight", "excite.kernel": "fc.2.weight"},
    CondensedLinear: {"kernel": "linear.weight", "bias": "linear.bias"},
    **dict.fromkeys(
        (NormActConv, LearnedGroupConv, SparseFeatureReactivation, CondensedGroupConv, CondensedReactivation),
        _NORM_CONV,
    ),
}
"""Our variables' paths → the twin's names, by our class."""


def share_weights(ours: nnx.Module, twin: tnn.Module, seed: int = 0) -> None:
    """Draws the twin's parameters and statistics at random, float64, and copies them into our layer."""
    random = torch.Generator().manual_seed(seed)
    twin.double()
    tensors = twin.state_dict()
    for path, name in _NAMES[type(ours)].items():
        tensor = tensors[name]
        if tensor.is_floating_point():
            around = 1.0 if name.endswith(("running_var", "norm.weight")) else 0.0
            tensor.uniform_(around - 0.7, around + 0.7, generator=random)
        variable = operator.attrgetter(path)(ours)
        value = our_layout(ours, tensor)
        assert variable.shape == value.shape, path
        variable.set_value(jnp.asarray(value))


def our_layout(ours: nnx.Module, tensor: Tensor) -> np.ndarray:
    """A tensor of the twin as the layer `ours` lays it out."""
    array = tensor.detach().numpy().copy()
    if array.ndim == 2:
        return array.T
    if array.ndim < 4:
        return array
    if isinstance(ours, (LearnedGroupConv, SparseFeatureReactivation)):
        return array[:, :, 0, 0].T
    if isinstance(ours, (CondensedGroupConv, CondensedReactivation)):
        # PyTorch lists the outputs group by group.
        return array.reshape(ours.index.shape[0], -1, array.shape[1]).transpose(0, 2, 1)
    return array.transpose(2, 3, 1, 0)


def compare(ours: Any, twin: tnn.Module, x: Tensor, *, training: bool, tolerance: float = 1e-10) -> Derivatives:
    """Asserts that output, gradients (input and every parameter) and running statistics are those of the twin."""
    twin.train(training)
    ours.train() if training else ours.eval()
    x = x.double().requires_grad_()
    output = twin(x)
    cotangent = random_input(tuple(output.shape), seed=9)
    twin.zero_grad()
    (output * cotangent).sum().backward()
    assert x.grad is not None
    found = derivatives(ours, _channels_last(x), _channels_last(cotangent))
    assert_near(found.output, _channels_last(output), tolerance, "output")
    assert_near(found.inputs, _channels_last(x.grad), tolerance, "gradient of the input")
    tensors, parameters = twin.state_dict(), dict(twin.named_parameters())
    names = _NAMES[type(ours)]
    assert set(parameters) <= set(names.values())
    for path, name in names.items():
        variable = operator.attrgetter(path)
        if name not in parameters:
            assert_near(variable(found.stepped)[...], our_layout(ours, tensors[name]), tolerance, path)
        elif (gradient := parameters[name].grad) is not None:
            assert_near(variable(found.parameters)[...], our_layout(ours, gradient), tolerance, f"gradient of {path}")
        else:
            raise AssertionError(f"the twin has no gradient for {name}")
    return found


def random_input(shape: tuple[int, ...], seed: int = 5) -> Tensor:
    """float64, normal with mean 0.3 and deviation 1.5: away from what a BatchNorm would leave unchanged."""
    return 0.3 + 1.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _channels_last(tensor: Tensor) -> np.ndarray:
    return nhwc(tensor) if tensor.ndim == 4 else tensor.detach().numpy()
