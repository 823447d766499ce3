"""The depthwise convolution against PyTorch's, by either lowering."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

from cdnv2_jax.layers.convolutions import DepthwiseConv, DepthwiseLowering, depthwise_conv, normal
from cdnv2_jax.layers.lowering import tracing_for
from tests.tables import table
from tests.twin_models import assert_near, nhwc, random_images

pytestmark = pytest.mark.usefixtures("x64")


@table("lowering", get_args(DepthwiseLowering))
@table("stride", [1, 2])
@table("height, width", [(6, 8), (7, 5), (1, 2), (1, 1)])
def test_value_and_gradients(height: int, width: int, stride: int, lowering: DepthwiseLowering) -> None:
    x = torch.from_numpy(random_images(2, height, width)).requires_grad_()
    weight = torch.from_numpy(random_images(3, 3, 3, "kernel")[:, :1].copy()).requires_grad_()
    expected = F.conv2d(x, weight, stride=stride, padding=1, groups=3)
    (expected**2).sum().backward()
    assert x.grad is not None and weight.grad is not None
    ours, kernel = nhwc(x), weight.detach().numpy().transpose(2, 3, 1, 0)
    found = jax.jit(lambda x, kernel: depthwise_conv(x, kernel, stride, lowering))(ours, kernel)
    assert_near(found, nhwc(expected), 1e-14)
    square = jax.jit(jax.grad(lambda x, kernel: (depthwise_conv(x, kernel, stride, lowering) ** 2).sum(), (0, 1)))
    gradient, kernel_gradient = square(jnp.asarray(ours), jnp.asarray(kernel))
    assert_near(gradient, nhwc(x.grad), 1e-13)
    assert_near(kernel_gradient, weight.grad.numpy().transpose(2, 3, 1, 0), 1e-13)


@table("platform, convolutions", [("cpu", 0), ("gpu", 1), ("tpu", 1)])
def test_choice_by_platform(platform: str, convolutions: int) -> None:
    x, kernel = jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 1, 3))
    with tracing_for(platform):
        program = str(jax.make_jaxpr(lambda x, kernel: depthwise_conv(x, kernel))(x, kernel))
    assert program.count("conv_general_dilated[") == convolutions


def test_narrow_types_are_summed_wide() -> None:
    """Nine terms of which each would be rounded away on its own: 256 + 8 · 1 in bfloat16's 8 bits."""
    x, kernel = jnp.ones((1, 3, 3, 1), jnp.bfloat16), jnp.ones((3, 3, 1, 1), jnp.bfloat16).at[0, 0].set(256)
    found = depthwise_conv(x, kernel, lowering="shifted_sum")
    assert found.dtype == jnp.bfloat16
    assert float(found[0, 1, 1, 0]) == 264


def test_module() -> None:
    module = DepthwiseConv(5, stride=2, kernel_init=normal(2.0), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert (module.kernel.shape, module.kernel.dtype) == ((3, 3, 1, 5), jnp.float32)
    assert np.asarray(module.kernel[...]).std() == pytest.approx(2, rel=0.4)
    y = module(jnp.ones((1, 7, 4, 5)))
    assert (y.shape, y.dtype) == ((1, 4, 2, 5), jnp.bfloat16)
