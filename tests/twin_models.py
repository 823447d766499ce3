"""The same small network in JAX and in the PyTorch twin, and how to compare the two."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import Tensor, nn

from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.network import Architecture, Network
from cdnv2_jax.weights.torch_file import model_from_state_dict, state_dict_slots
from tests.golden_format import deterministic_input, deterministic_state_dict
from tests.torch_twin import CondenseNetTwin, build_twin
from tests.torch_twin.layers import MaskedPointwise

SMALL_V2 = CondenseNetArchitecture(
    stages=(1, 1, 1),
    growth=(8, 8, 16),
    num_classes=7,
    lgc_groups=4,
    lgc_factor=8,
    conv_groups=2,
    sfr_groups=4,
    sfr_factor=2,
    bottleneck=2,
    hard_swish_from=1,
    squeeze_excite_from=2,
    head_width=20,
)
"""Every part of a CondenseNetV2, C ≠ G in both kinds; its SFR groups share outputs (more groups than C)."""

SMALL_V1 = CondenseNetArchitecture(
    stages=(2, 1), growth=(8, 16), num_classes=5, lgc_groups=4, lgc_factor=4, conv_groups=4, stem_stride=1
)
"""A CondenseNet (v1)."""


def twin_config(architecture: Architecture) -> dict[str, Any]:
    """The architecture of a CondenseNet under the official argument names, for `build_twin`."""
    a = architecture
    assert isinstance(a, CondenseNetArchitecture)
    return {
        "stages": a.stages,
        "growth": a.growth,
        "condense_factor": a.lgc_factor,
        "group_1x1": a.lgc_groups,
        "group_3x3": a.conv_groups,
        "bottleneck": a.bottleneck,
        "init_stride": a.stem_stride,
        "num_classes": a.num_classes,
        "trans_factor": a.sfr_factor,
        "group_trans": a.sfr_groups,
        "last_se_reduction": None if a.head_width is None else a.head_reduction,
        "HS_start_block": a.hard_swish_from,
        "SE_start_block": a.squeeze_excite_from,
        "fc_channel": a.head_width,
    }


def random_twin(architecture: Architecture, salt: str = "twin") -> CondenseNetTwin:
    """An unpruned twin in float64 and evaluation mode; weights and BN statistics are drawn from `salt`."""
    twin = build_twin(twin_config(architecture))
    state = deterministic_state_dict({key: list(value.shape) for key, value in twin.state_dict().items()}, salt)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return twin.double().eval()


@torch.no_grad()
def mask_at_random(module: nn.Module, seed: int = 0) -> None:
    """Removes about 4 of 10 connections of every masked layer of the twin, whatever the number per group."""
    random = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, MaskedPointwise):
            pattern = torch.rand(layer.groups, layer.removable, generator=random) < 0.6
            layer.connections(layer._mask).copy_(pattern[..., None])


def jax_model(twin: CondenseNetTwin, architecture: Architecture, **dtypes: Any) -> CondenseNet:
    """The twin's network in JAX, in evaluation mode; float64 unless `dtypes` says otherwise."""
    dtypes = {"param_dtype": jnp.float64, **dtypes}
    model = model_from_state_dict(twin.state_dict(), architecture, name="twin", **dtypes)
    assert isinstance(model, CondenseNet)
    return model


def random_images(batch: int, height: int, width: int, salt: str = "images") -> np.ndarray:
    """float64 images [batch, 3, height, width]."""
    return deterministic_input((batch, 3, height, width), salt).astype(np.float64)


def nhwc(nchw: np.ndarray | Tensor) -> np.ndarray:
    """[b, c, h, w] → [b, h, w, c]."""
    array = nchw.detach().numpy() if isinstance(nchw, Tensor) else nchw
    return array.transpose(0, 2, 3, 1)


def forward(model: nnx.Module, *inputs: Any) -> Any:
    """What the model returns for the inputs, compiled; the model keeps its state."""
    return call(model, operator.call, *inputs)


def call(model: nnx.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    """`function(model, *inputs)`, compiled; the model keeps its state."""
    graph, state = nnx.split(model)
    return jax.jit(lambda state, *inputs: function(nnx.merge(graph, state), *inputs))(state, *inputs)


class Derivatives(NamedTuple):
    """Of Σ output · cotangent: the output, the gradients, and the module with its new batch statistics.

    `parameters` is the module with every parameter replaced by its gradient.
    """

    output: jax.Array
    inputs: jax.Array
    parameters: Any
    stepped: Any


def derivatives(module: nnx.Module, x: np.ndarray, cotangent: np.ndarray) -> Derivatives:
    """Output and gradients of a JAX module in the mode it is in; `module` itself stays as it is."""
    graph, parameters, rest = nnx.split(module, nnx.Param, ...)

    def weighted(parameters: nnx.State, x: jax.Array, rest: nnx.State):
        merged = nnx.merge(graph, parameters, rest, copy=True)
        output = merged(x)  # pyright: ignore[reportCallIssue]
        return (output * cotangent).sum(), (output, nnx.state(merged, nnx.BatchStat))

    differentiate = jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))
    (gradients, inputs), (output, statistics) = differentiate(parameters, jnp.asarray(x), rest)
    in_place, stepped = nnx.clone(module), nnx.clone(module)
    nnx.update(in_place, gradients)
    nnx.update(stepped, statistics)
    return Derivatives(output, inputs, in_place, stepped)


def tensors_of(model: Network) -> dict[str, np.ndarray]:
    """The model's variables under their official keys and in PyTorch's layout, whatever form it has."""
    return {key: slot.read() for key, slot in state_dict_slots(model).items()}


def assert_near(actual: Any, expected: Any, tolerance: float, what: str = "") -> None:
    """Same shape, and no further apart than `tolerance` times the largest magnitude expected."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    scale = np.abs(expected).max(initial=np.finfo(np.float64).tiny)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, err_msg=what)


def assert_all_near(actual: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> None:
    """`assert_near` for every entry of `expected`, of which there must be one at least."""
    assert expected
    for key, value in expected.items():
        assert_near(actual[key], value, tolerance, key)
