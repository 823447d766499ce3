"""Grouped 1×1 convolution, by either lowering, against PyTorch's with its channel shuffle."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cdnv2_jax.layers.convolutions import grouped_pointwise
from cdnv2_jax.layers.lowering import KINDS, override
from tests.layers.twin_layers import random_input
from tests.tables import table
from tests.twin_models import assert_near, nhwc

pytestmark = pytest.mark.usefixtures("x64")


@table("lowering", KINDS["grouped_pointwise"])
@table(
    "shape, outputs, groups",
    {
        "fewer outputs": ((2, 6, 3, 5), 4, 2),
        "one input per group": ((1, 4, 1, 1), 12, 4),
        "one output per group": ((3, 6, 2, 1), 3, 3),
        "one group": ((2, 5, 2, 3), 7, 1),
    },
)
def test_output_and_gradients(shape: tuple[int, int, int, int], outputs: int, groups: int, lowering: str) -> None:
    x = random_input(shape).requires_grad_()
    weight = random_input((outputs, shape[1] // groups, 1, 1), seed=1).requires_grad_()
    expected = F.channel_shuffle(F.conv2d(x, weight, groups=groups), groups)
    cotangent = random_input(tuple(expected.shape), seed=2)
    (expected * cotangent).sum().backward()
    assert x.grad is not None and weight.grad is not None

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> Any:
        output, transpose = jax.vjp(lambda x, kernel: grouped_pointwise(x, kernel, lowering=lowering), x, kernel)
        return output, *transpose(cotangent)

    output, x_gradient, kernel_gradient = run(nhwc(x), by_group(weight, groups), nhwc(cotangent))
    assert_near(output, nhwc(expected), 1e-12)
    assert_near(x_gradient, nhwc(x.grad), 1e-12)
    assert_near(kernel_gradient, by_group(weight.grad, groups), 1e-12)


def by_group(weight: torch.Tensor, groups: int) -> np.ndarray:
    """[G · k, i, 1, 1] → [G, i, k]."""
    return weight.detach().numpy().reshape(groups, -1, weight.shape[1]).transpose(0, 2, 1)


@table("lowering", KINDS["grouped_pointwise"])
def test_the_traced_product(lowering: str) -> None:
    """The groups are a batch dimension of the product, or are not."""
    x, kernel = jnp.ones((1, 2, 2, 6)), jnp.ones((2, 3, 5))
    with override(grouped_pointwise=lowering):
        program = jax.make_jaxpr(lambda x, kernel: grouped_pointwise(x, kernel))(x, kernel)
    (product,) = [line for line in program.eqns if line.primitive.name == "dot_general"]
    _, batch_dimensions = product.params["dimension_numbers"]
    assert batch_dimensions == (((0,), (0,)) if lowering == "batched" else ((), ()))
