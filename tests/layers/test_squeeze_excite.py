"""SqueezeExcite and the activations against the PyTorch twin's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from cdnv2_jax.layers.convolutions import SqueezeExcite
from cdnv2_jax.layers.norm import ActivationName, activation_function
from tests.layers.twin_layers import ACTIVATIONS, compare, random_input, share_weights
from tests.tables import table
from tests.torch_twin import layers as twin_layers
from tests.twin_models import assert_near

pytestmark = pytest.mark.usefixtures("x64")


@table(
    "channels, reduction, hidden",
    {
        "none": (6, 1, 6),
        "even": (16, 4, 4),
        "with remainder": (35, 16, 2),
    },
)
def test_squeeze_excite(channels: int, reduction: int, hidden: int) -> None:
    twin = twin_layers.SqueezeExcite(channels, reduction=reduction)
    ours = SqueezeExcite(channels, reduction, rngs=nnx.Rngs(0))
    assert ours.squeeze.kernel.shape == (channels, hidden)
    share_weights(ours, twin)
    compare(ours, twin, random_input((3, channels, 4, 5)), training=True)


def test_reduction_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="squeeze-excite: 15 channels cannot be reduced by a factor of 16"):
        SqueezeExcite(15, 16, rngs=nnx.Rngs(0))


@table("name", ["relu", "hard_swish"])
def test_activation_and_its_gradient(name: ActivationName) -> None:
    """The hard-swish's corners at ±3 are left out: there a gradient is a choice."""
    points = torch.linspace(-5, 5, 41, dtype=torch.float64)
    points = points[points.abs() != 3].requires_grad_()
    expected = ACTIVATIONS[name](points)
    expected.sum().backward()
    assert points.grad is not None
    x = jnp.asarray(points.detach().numpy())
    function = activation_function(name)
    assert_near(function(x), expected.detach().numpy(), 1e-14)
    assert_near(jax.grad(lambda x: function(x).sum())(x), points.grad.numpy(), 1e-14)


def test_hard_swish_by_hand() -> None:
    values = activation_function("hard_swish")(jnp.asarray([-4.0, -3.0, -1.5, 0.0, 1.0, 3.0, 7.0]))
    np.testing.assert_allclose(values, [0, 0, -0.375, 0, 4 / 6, 3, 7], rtol=1e-14, atol=1e-15)
