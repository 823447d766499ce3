"""LGC and SFR, masked and condensed, against the PyTorch twin's: outputs, gradients, statistics."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedReactivation
from cdnv2_jax.layers.learned import LearnedGroupConv, MaskedConv, SparseFeatureReactivation
from cdnv2_jax.layers.norm import ActivationName
from tests.layers.twin_layers import ACTIVATIONS, compare, random_input, share_weights
from tests.tables import table
from tests.torch_twin import layers as twin_layers
from tests.twin_models import assert_near, forward, mask_at_random, nhwc

pytestmark = pytest.mark.usefixtures("x64")

SIDES = (3, 2)
"""Height and width of the maps: not square, and few, so that a mixed-up axis shows."""

CASES = {
    "C=G": (12, 8, 4, 4, "relu"),
    "C>G": (12, 8, 2, 6, "hard_swish"),
    "C<G": (12, 8, 4, 2, "hard_swish"),
    "one group": (6, 4, 1, 3, "relu"),
}
"""Channels to choose from, channels in groups, G, C, activation."""


def masked_pair(
    kind: type[MaskedConv], choices: int, members: int, groups: int, factor: int, activation: ActivationName
) -> tuple[Any, Any]:
    """The layer and its twin, with the same weights and the same random mask."""
    lgc = kind is LearnedGroupConv
    inputs, outputs = (choices, members) if lgc else (members, choices)
    twin_kind = twin_layers.LearnedGroupConvolution if lgc else twin_layers.SparseFeatureReactivation
    twin = twin_kind(inputs, outputs, groups=groups, condense_factor=factor, activation=ACTIVATIONS[activation])
    ours = kind(inputs, outputs, groups=groups, condensation_factor=factor, activation=activation, rngs=nnx.Rngs(0))
    share_weights(ours, twin)
    mask_at_random(twin)
    per_weight = twin._mask[:, :, 0, 0].numpy() > 0
    # One row (LGC) or column (SFR) of every group; the groups alternate.
    mask = per_weight[:groups] if lgc else per_weight[:, :groups].T
    assert 0 < mask.sum() < mask.size
    ours.mask.set_value(jnp.asarray(mask))
    return ours, twin


@table(
    "training",
    {
        "train": True,
        "eval": False,
    },
)
@table("choices, members, groups, factor, activation", CASES)
@table("kind", [LearnedGroupConv, SparseFeatureReactivation])
def test_masked(
    kind: type[MaskedConv],
    choices: int,
    members: int,
    groups: int,
    factor: int,
    activation: ActivationName,
    training: bool,
) -> None:
    ours, twin = masked_pair(kind, choices, members, groups, factor, activation)
    found = compare(ours, twin, random_input((5, ours.kernel.shape[0], *SIDES)), training=training)
    kernel_gradient = np.asarray(found.parameters.kernel[...])
    removed = twin._mask[:, :, 0, 0].numpy().T == 0
    assert (kernel_gradient[removed] == 0).all()
    assert (kernel_gradient[~removed] != 0).all()


@table("kind", [LearnedGroupConv, SparseFeatureReactivation])
def test_connection_weights_are_a_groups_share_of_the_kernel(kind: type[MaskedConv]) -> None:
    """Groups are taken modulo G on either side: importances and masks refer to the same weights."""
    ours, twin = masked_pair(kind, 12, 8, 2, 6, "relu")
    np.testing.assert_array_equal(ours.connection_weights(), twin.connections(twin.conv.weight).detach())
    np.testing.assert_array_equal(ours.kernel_mask(), twin._mask[:, :, 0, 0].T > 0)
    assert ours.kept == twin.removable // twin.condense_factor == 2


@table(
    "kind, channels, groups, factor, message",
    [
        (LearnedGroupConv, (10, 8), 4, 2, "group convolution, inputs: 10 channels are not divisible by groups 4"),
        (LearnedGroupConv, (8, 6), 4, 2, "group convolution, outputs: 6 channels are not divisible by groups 4"),
        (LearnedGroupConv, (8, 8), 4, 3, "inputs: 8 channels are not divisible by condensation factor 3"),
        (LearnedGroupConv, (8, 8), 0, 2, "are not divisible by groups 0"),
        (SparseFeatureReactivation, (6, 8), 4, 2, "reactivation, inputs: 6 channels are not divisible by groups 4"),
        (SparseFeatureReactivation, (8, 10), 4, 2, "reactivation, outputs: 10 channels are not divisible by groups 4"),
        (SparseFeatureReactivation, (8, 8), 4, 3, "outputs: 8 channels are not divisible by condensation factor 3"),
        (SparseFeatureReactivation, (8, 8), 4, -1, "are not divisible by condensation factor -1"),
    ],
)
def test_channels_that_do_not_divide(
    kind: type[MaskedConv], channels: tuple[int, int], groups: int, factor: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(*channels, groups=groups, condensation_factor=factor, activation="relu", rngs=nnx.Rngs(0))


@table("kind", [LearnedGroupConv, SparseFeatureReactivation])
def test_factor_need_not_divide_the_grouped_channels(kind: type[MaskedConv]) -> None:
    """The twin's rule: C divides the channels there are to choose from, and nothing else."""
    channels = (12, 8) if kind is LearnedGroupConv else (8, 12)
    layer = kind(*channels, groups=4, condensation_factor=3, activation="relu", rngs=nnx.Rngs(0))
    assert (layer.mask.shape, layer.kept) == ((4, 12), 4)


@table(
    "build",
    {
        "LGC": partial(LearnedGroupConv, condensation_factor=2),
        "SFR": partial(SparseFeatureReactivation, condensation_factor=2),
        "condensed LGC": partial(CondensedGroupConv, kept=3),
        "condensed SFR": partial(CondensedReactivation, kept=3),
    },
)
def test_half_precision(build: Callable[..., Any]) -> None:
    """`dtype` rules the product, `param_dtype` the weights; the result is float32's as far as bfloat16 goes."""
    common = {"groups": 2, "activation": "relu", "param_dtype": jnp.float32}
    half = build(6, 4, **common, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    full = build(6, 4, **common, rngs=nnx.Rngs(0))
    x = jnp.asarray(nhwc(random_input((5, 6, *SIDES))), jnp.float32)
    found, expected = forward(half, x), forward(full, x)
    assert (found.dtype, expected.dtype) == (jnp.bfloat16, jnp.float32)
    assert half.kernel.dtype == jnp.float32
    assert_near(found.astype(jnp.float32), expected, 0.02)
