"""Initial values: distributed as PyTorch's are, layer by layer."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn as tnn

from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedLinear, CondensedReactivation
from cdnv2_jax.layers.convolutions import NormActConv, SqueezeExcite, kaiming_normal_fan_out, torch_linear
from cdnv2_jax.layers.learned import LearnedGroupConv, SparseFeatureReactivation
from tests.tables import table

RNGS = nnx.Rngs(0)


def kaiming(inputs: int, outputs: int, side: int = 1, groups: int = 1) -> torch.Tensor:
    """PyTorch's own Kaiming normal, fan-out, ReLU gain."""
    torch.manual_seed(0)
    conv = tnn.Conv2d(inputs, outputs, side, groups=groups)
    return tnn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


def lgc_kernel() -> jax.Array:
    layer = LearnedGroupConv(256, 64, groups=4, condensation_factor=4, activation="relu", rngs=RNGS)
    return layer.kernel[...]


def sfr_kernel() -> jax.Array:
    layer = SparseFeatureReactivation(64, 256, groups=4, condensation_factor=4, activation="relu", rngs=RNGS)
    return layer.kernel[...]


def conv_kernel() -> jax.Array:
    return NormActConv(64, 32, groups=2, activation="relu", rngs=RNGS).kernel[...]


def condensed_lgc_kernel() -> jax.Array:
    return CondensedGroupConv(256, 64, groups=4, kept=128, activation="relu", rngs=RNGS).kernel[...]


def condensed_sfr_kernel() -> jax.Array:
    return CondensedReactivation(64, 256, groups=4, kept=128, activation="relu", rngs=RNGS).kernel[...]


@table(
    "ours, theirs",
    [
        (lgc_kernel, lambda: kaiming(256, 64)),
        (sfr_kernel, lambda: kaiming(64, 256)),
        (conv_kernel, lambda: kaiming(64, 32, side=3, groups=2)),
        (condensed_lgc_kernel, lambda: kaiming(512, 64, groups=4)),
        (condensed_sfr_kernel, lambda: kaiming(64, 512, groups=4)),
    ],
)
def test_convolutions_are_kaiming_normal(ours: Callable[[], jax.Array], theirs: Callable[[], torch.Tensor]) -> None:
    values, expected = np.asarray(ours()), theirs().detach().numpy()
    assert values.size == expected.size >= 8192
    # The standard deviation of n normal numbers is known to 1 / √(2 n), here under 0.8 %, for either side.
    assert values.std() == pytest.approx(expected.std(), rel=0.04)
    assert values.mean() == pytest.approx(0, abs=0.05 * float(expected.std()))
    # Normal, and not uniform (1.8) or the like.
    assert (values**4).mean() / (values**2).mean() ** 2 == pytest.approx(3, abs=0.3)


@table("inputs, outputs", [(64, 160), (100, 90)])
def test_linears_are_uniform_within_one_over_root_of_inputs(inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    expected = tnn.Linear(inputs, outputs).weight.detach().numpy()
    values = np.asarray(torch_linear(inputs)(jax.random.key(1), (inputs, outputs)))
    bound = 1 / math.sqrt(inputs)
    assert np.abs(values).max() == pytest.approx(np.abs(expected).max(), rel=0.01)
    assert np.abs(values).max() <= bound
    assert values.std() == pytest.approx(expected.std(), rel=0.04)
    assert values.mean() == pytest.approx(0, abs=0.05 * bound)


def test_layers_scale_by_their_own_inputs() -> None:
    """The excite Linear of an SE has few inputs and so the wider bound; a halved classifier reads half of them."""
    se = SqueezeExcite(256, reduction=4, rngs=RNGS)
    halved = CondensedLinear(256, 100, rngs=RNGS)
    for kernel, inputs in [(se.squeeze.kernel, 256), (se.excite.kernel, 64), (halved.kernel, 128)]:
        assert kernel.shape[0] == inputs
        assert float(jnp.abs(kernel[...]).max()) == pytest.approx(1 / math.sqrt(inputs), rel=0.01)
    assert not halved.bias[...].any()


@table("shape", [(1,), (3, 5), (7, 1, 11), (4, 4)])
@table("initializer", [kaiming_normal_fan_out(8), torch_linear(8)])
def test_any_shape_and_dtype(initializer: nnx.Initializer, shape: tuple[int, ...]) -> None:
    values = initializer(jax.random.key(0), shape, jnp.bfloat16)
    assert (values.shape, values.dtype) == (shape, jnp.bfloat16)
    assert len(np.unique(np.asarray(values, np.float32))) > 0.8 * values.size
    np.testing.assert_array_equal(values, initializer(jax.random.key(0), shape, jnp.bfloat16))


def test_every_layer_draws_its_own_numbers() -> None:
    rngs = nnx.Rngs(0)
    first, second = (NormActConv(4, 4, groups=2, activation="relu", rngs=rngs).kernel[...] for _ in range(2))
    again = NormActConv(4, 4, groups=2, activation="relu", rngs=nnx.Rngs(0)).kernel[...]
    assert (first != second).all()
    np.testing.assert_array_equal(first, again)
