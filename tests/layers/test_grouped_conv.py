"""Grouped convolution, by every lowering, against torch.nn.functional.conv2d."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

from cdnv2_jax.layers.convolutions import NormActConv, block_diagonal_kernel, grouped_conv, possible_lowerings
from cdnv2_jax.layers.lowering import KINDS, override
from cdnv2_jax.layers.norm import ActivationName
from tests.layers.twin_layers import ACTIVATIONS, compare, random_input, share_weights
from tests.tables import table
from tests.torch_twin import layers as twin_layers
from tests.twin_models import assert_near, nhwc

pytestmark = pytest.mark.usefixtures("x64")


@table("lowering", KINDS["grouped_conv"])
@table(
    "shape, outputs, groups, side",
    {
        "not square": ((2, 4, 5, 7), 6, 2, 3),
        "1x1 map": ((1, 6, 1, 1), 9, 3, 3),
        "one group": ((2, 5, 6, 4), 3, 1, 3),
        "one input per group": ((1, 6, 4, 5), 12, 6, 3),
        "1x1 kernel": ((3, 4, 3, 2), 2, 2, 1),
        "kernel larger than the map": ((1, 4, 3, 6), 4, 2, 5),
        "pairs and quads are not all groups": ((2, 16, 3, 2), 8, 8, 3),
    },
)
def test_output_and_gradients(
    shape: tuple[int, int, int, int], outputs: int, groups: int, side: int, lowering: str
) -> None:
    if lowering not in possible_lowerings(groups):
        return  # neighbours cannot be merged so
    x = random_input(shape).requires_grad_()
    weight = random_input((outputs, shape[1] // groups, side, side), seed=1).requires_grad_()
    expected = F.conv2d(x, weight, padding=side // 2, groups=groups)
    cotangent = random_input(tuple(expected.shape), seed=2)
    (expected * cotangent).sum().backward()
    assert x.grad is not None and weight.grad is not None

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> Any:
        output, transpose = jax.vjp(lambda x, kernel: grouped_conv(x, kernel, groups, lowering=lowering), x, kernel)
        return output, *transpose(cotangent)

    output, x_gradient, kernel_gradient = run(nhwc(x), hwio(weight), nhwc(cotangent))
    assert_near(output, nhwc(expected), 1e-12)
    assert_near(x_gradient, nhwc(x.grad), 1e-12)
    assert_near(kernel_gradient, hwio(weight.grad), 1e-12)


def hwio(weight: torch.Tensor) -> np.ndarray:
    """[out, in, h, w] → [h, w, in, out]."""
    return weight.detach().numpy().transpose(2, 3, 1, 0)


def test_block_diagonal_kernel_by_hand() -> None:
    """4 inputs, 2 outputs, 2 groups: output 0 reads inputs 0 and 1, output 1 reads 2 and 3."""
    kernel = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)
    dense = block_diagonal_kernel(kernel, groups=2, merged=2)
    np.testing.assert_array_equal(dense[0, 0], [[1, 0], [3, 0], [0, 2], [0, 4]])


def test_pairs_by_hand() -> None:
    """4 inputs, 4 outputs, 4 groups: of each two that are merged, each output still reads its own input."""
    kernel = jnp.asarray([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    np.testing.assert_array_equal(block_diagonal_kernel(kernel, groups=4, merged=2)[0, 0], [[1, 0, 3, 0], [0, 2, 0, 4]])


@table(
    "groups, possible",
    [
        (1, ["grouped", "block_diagonal"]),
        (3, ["grouped", "block_diagonal"]),
        (6, ["grouped", "pairs", "block_diagonal"]),
        (8, ["grouped", "pairs", "quads", "block_diagonal"]),
    ],
)
def test_possible_lowerings(groups: int, possible: list[str]) -> None:
    assert list(possible_lowerings(groups)) == possible


@table("lowering, groups", [("grouped", 8), ("pairs", 4), ("quads", 2), ("block_diagonal", 1)])
def test_groups_of_the_traced_convolution(lowering: str, groups: int) -> None:
    x, kernel = jnp.ones((1, 5, 3, 16)), jnp.ones((3, 3, 2, 8))
    with override(grouped_conv=lowering):
        program = jax.make_jaxpr(lambda x, kernel: grouped_conv(x, kernel, 8))(x, kernel)
    (conv,) = [line for line in program.eqns if line.primitive.name == "conv_general_dilated"]
    assert conv.params["feature_group_count"] == groups


@table(
    "training",
    {
        "train": True,
        "eval": False,
    },
)
@table("activation", ["relu", "hard_swish"])
def test_norm_act_conv(activation: ActivationName, training: bool) -> None:
    twin = twin_layers.NormActConv(8, 4, groups=2, activation=ACTIVATIONS[activation])
    ours = NormActConv(8, 4, groups=2, activation=activation, rngs=nnx.Rngs(0))
    share_weights(ours, twin)
    compare(ours, twin, random_input((2, 8, 5, 3)), training=training)
