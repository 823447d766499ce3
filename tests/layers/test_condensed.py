"""Condensed LGC and SFR and the halved Linear against the PyTorch twin's: outputs, gradients, statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import Tensor

from cdnv2_jax.layers.condensed import (
    NORM_PARTS,
    CondensedGroupConv,
    CondensedLinear,
    CondensedReactivation,
    condensed_layers,
    share_norms,
    with_gathered_norms,
)
from cdnv2_jax.layers.lowering import KINDS, override, tracing_for
from cdnv2_jax.layers.norm import ActivationName
from tests.layers.twin_layers import ACTIVATIONS, compare, random_input, share_weights
from tests.tables import table
from tests.torch_twin import layers as twin_layers
from tests.twin_models import assert_near, derivatives, nhwc
from tests.weights.networks import network

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


def lgc_read_by_several_groups() -> CondensedGroupConv:
    """4 groups that read 3 of 12 channels each: channel 11 is read by all, some by none; all normalise alike."""
    layer = CondensedGroupConv(12, 8, groups=4, kept=3, activation="hard_swish", rngs=nnx.Rngs(0))
    index = ascending_choices(4, 3, 12).numpy()
    layer.index.set_value(jnp.asarray(index, jnp.int32))
    random, flat = np.random.default_rng(0), index.reshape(-1)
    assert layer.norm is not None
    for name in NORM_PARTS:
        getattr(layer.norm, name).set_value(jnp.asarray(random.uniform(0.3, 1.7, 12)[flat]))
    return layer


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("lowering", KINDS["condensed_pointwise"])
@table("training", {"train": True, "eval": False})
def test_shared_norm(training: bool, lowering: str, platform: str) -> None:
    """The same outputs and gradients as with a normalisation for each group, which PyTorch's twin has, too."""
    gathered = lgc_read_by_several_groups()
    gathered.train() if training else gathered.eval()
    shared = nnx.clone(gathered)
    share_norms(nnx.Sequential(shared))
    assert shared.norm is None and shared.input_norm is not None and gathered.norm is not None
    x, cotangent = (nhwc(random_input((5, channels, *SIDES), channels)) for channels in (12, 8))
    expected = derivatives(gathered, x, cotangent)
    with tracing_for(platform), override(condensed_pointwise=lowering):
        found = derivatives(shared, x, cotangent)
    assert_near(found.output, expected.output, 1e-10)
    assert_near(found.inputs, expected.inputs, 1e-10)
    assert_near(found.parameters.kernel[...], expected.parameters.kernel[...], 1e-10)
    read = gathered.index.reshape(-1)
    for name in ("scale", "bias"):  # of every group that reads a channel
        summed = np.zeros(12)
        np.add.at(summed, read, getattr(expected.parameters.norm, name)[...])
        assert_near(getattr(found.parameters.input_norm, name)[...], summed, 1e-10, name)
    for name in ("mean", "var"):
        assert_near(getattr(found.stepped.input_norm, name)[read], getattr(expected.stepped.norm, name)[...], 1e-10)


def test_norms_are_shared_only_where_all_groups_agree() -> None:
    """And come back bit for bit; what nobody reads is neutral."""
    shared, before = lgc_read_by_several_groups(), lgc_read_by_several_groups()
    whole = nnx.Sequential(shared)
    share_norms(whole)
    unread = np.setdiff1d(np.arange(12), before.index[...])
    for name, value in {"scale": 1, "bias": 0, "mean": 0, "var": 1}.items():
        assert unread.size and (np.asarray(getattr(shared.input_norm, name)[...])[unread] == value).all()
    gathered = with_gathered_norms(whole)
    (back,) = condensed_layers(gathered)
    for name in NORM_PARTS:
        np.testing.assert_array_equal(getattr(back.norm, name), getattr(before.norm, name))
    assert with_gathered_norms(gathered) is gathered
    assert before.norm is not None
    before.norm.bias[...] = before.norm.bias[...].at[-1].add(1e-9)  # channel 11 for one of 4 groups
    share_norms(nnx.Sequential(before))
    assert before.input_norm is None


def test_a_condensed_network_gathers_nothing_on_a_tpu() -> None:
    small = network("condensed")
    images = jnp.zeros((128, 32, 32, 3))  # traced, not computed

    def program(model: nnx.Module) -> str:
        graph, state = nnx.split(model)
        with tracing_for("tpu"):
            return str(jax.make_jaxpr(lambda state, images: nnx.merge(graph, state)(images))(state, images))

    assert "dot_general" in program(small) and "gather" not in program(small)
    assert "gather" in program(with_gathered_norms(small))
