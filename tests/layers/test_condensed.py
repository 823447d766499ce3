"""Condensed LGC and SFR and the halved Linear against the PyTorch twin's: outputs, gradients, statistics."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import Tensor

from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedLinear, CondensedReactivation
from cdnv2_jax.layers.norm import ActivationName
from tests.layers.twin_layers import ACTIVATIONS, compare, random_input, share_weights
from tests.tables import table
from tests.torch_twin import layers as twin_layers

pytestmark = pytest.mark.usefixtures("x64")

SIDES = (3, 2)
"""Height and width of the maps: not square, and few, so that a mixed-up axis shows."""


def ascending_choices(groups: int, kept: int, choices: int) -> Tensor:
    """int64 [G, kept]: for every group some of the channels, ascending; the last channel is in all of them."""
    random = torch.Generator().manual_seed(3)
    others = [torch.randperm(choices - 1, generator=random)[: kept - 1].sort().values for _ in range(groups)]
    return torch.stack([torch.cat((chosen, torch.tensor([choices - 1]))) for chosen in others])


CASES = {
    "C=G": (12, 8, 4, 3, "relu"),
    "C>G": (12, 8, 2, 2, "hard_swish"),
    "C<G": (12, 8, 4, 6, "hard_swish"),
    "one group": (6, 4, 1, 2, "relu"),
}
"""Channels to choose from, channels in groups, G, kept per group, activation."""


@table(
    "training",
    {
        "train": True,
        "eval": False,
    },
)
@table("inputs, outputs, groups, kept, activation", CASES)
def test_condensed_group_conv(
    inputs: int, outputs: int, groups: int, kept: int, activation: ActivationName, training: bool
) -> None:
    index = ascending_choices(groups, kept, inputs)
    twin = twin_layers.CondensedLgc(groups * kept, outputs, groups=groups, activation=ACTIVATIONS[activation])
    twin.index.copy_(index.flatten())
    ours = CondensedGroupConv(inputs, outputs, groups=groups, kept=kept, activation=activation, rngs=nnx.Rngs(0))
    ours.index.set_value(jnp.asarray(index.numpy(), jnp.int32))
    share_weights(ours, twin)
    compare(ours, twin, random_input((5, inputs, *SIDES)), training=training)


@table(
    "training",
    {
        "train": True,
        "eval": False,
    },
)
@table("outputs, inputs, groups, kept, activation", CASES)
def test_condensed_reactivation(
    inputs: int, outputs: int, groups: int, kept: int, activation: ActivationName, training: bool
) -> None:
    index = ascending_choices(groups, kept, outputs)
    twin = twin_layers.CondensedSfr(inputs, groups * kept, outputs, groups=groups, activation=ACTIVATIONS[activation])
    twin.index[torch.arange(groups * kept), index.flatten()] = 1
    ours = CondensedReactivation(inputs, outputs, groups=groups, kept=kept, activation=activation, rngs=nnx.Rngs(0))
    ours.index.set_value(jnp.asarray(index.numpy(), jnp.int32))
    share_weights(ours, twin)
    compare(ours, twin, random_input((5, inputs, *SIDES)), training=training)


def test_condensed_linear() -> None:
    twin = twin_layers.CondensedLinear(4, 3)
    ours = CondensedLinear(9, 3, rngs=nnx.Rngs(0))
    index = [7, 0, 5, 2]
    twin.index.copy_(torch.tensor(index))
    ours.index.set_value(jnp.asarray(index, jnp.int32))
    share_weights(ours, twin)
    compare(ours, twin, random_input((5, 9)), training=True)


def test_folded_kernel_adds_up_what_shares_an_output() -> None:
    """By hand: 2 groups of 2 inputs (0, 2 and 1, 3), each keeping 2 of 3 outputs; both keep output 1."""
    layer = CondensedReactivation(4, 3, groups=2, kept=2, activation="relu", rngs=nnx.Rngs(0))
    layer.index.set_value(jnp.asarray([[0, 1], [1, 2]], jnp.int32))
    layer.kernel.set_value(jnp.arange(1.0, 9.0).reshape(2, 2, 2))
    np.testing.assert_array_equal(layer.folded_kernel(), [[1, 2, 0], [0, 5, 6], [3, 4, 0], [0, 7, 8]])
