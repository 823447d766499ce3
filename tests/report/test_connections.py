"""Learned connections as arrays: by hand, and against the PyTorch twin's weights and masks, channel by channel."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from cdnv2_jax import UserError, condense
from cdnv2_jax.layers.condensed import CondensedGroupConv
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.pruning.prune import prune
from cdnv2_jax.report.connections import (
    Connections,
    connections_by_kind,
    connections_of,
    layer_map,
    rescaled_columns,
    shares_by_readers,
)
from tests.torch_twin import CondenseNetTwin, converted, prune_to_stage
from tests.torch_twin.layers import LearnedGroupConvolution, MaskedPointwise, SparseFeatureReactivation
from tests.twin_models import SMALL_V1, SMALL_V2, jax_model, mask_at_random, random_twin

pytestmark = pytest.mark.usefixtures("x64")

NAN = np.nan


def test_a_map_by_hand() -> None:
    values = [np.array([1, 3]), np.array([2, 4, 10]), np.array([0, 1, 2, 3, 5])]
    # A stem of two channels, then layers that add one, two and two.
    expected = [
        [2, 3, 0.5],  # the stem's two channels
        [NAN, 10, 2],  # the first layer's one
        [NAN, NAN, 4],  # the second layer's two
    ]
    np.testing.assert_array_equal(layer_map(values), expected)
    with pytest.raises(ValueError, match=r"must read more channels, got \[2, 2, 5\]"):
        layer_map([values[0], values[0], values[2]])


def test_columns_by_hand() -> None:
    values = np.array([[2, 3, 0], [NAN, 12, 0], [NAN, NAN, 0]])
    np.testing.assert_array_equal(rescaled_columns(values), [[1, 0.25, 0], [NAN, 1, 0], [NAN, NAN, 0]])


def test_readers_by_hand() -> None:
    kept = np.array([[1, 0, 1, 0], [1, 0, 0, 0]], bool)
    np.testing.assert_array_equal(shares_by_readers(kept), [0.5, 0.25, 0.25])


def _owners(architecture: CondenseNetArchitecture) -> list[int]:
    """The source (0: the stem, else a dense layer) of every channel of the last feature map, one by one."""
    owners = [0] * (2 * architecture.growth[0])
    number = 0
    for layers, growth in zip(architecture.stages, architecture.growth, strict=True):
        for _ in range(layers):
            number += 1
            owners += [number] * growth
    return owners


def _map_of_twin(
    twin: CondenseNetTwin, architecture: CondenseNetArchitecture, kind: type[MaskedPointwise]
) -> np.ndarray:
    """Weight by weight, from PyTorch's tensors [out, in, 1, 1]."""
    layers = [layer for layer in twin.modules() if isinstance(layer, kind)]
    owners, found = _owners(architecture), np.full((len(layers), len(layers)), NAN)
    for target, layer in enumerate(layers):
        weights = (layer.conv.weight * layer._mask).detach().numpy()[:, :, 0, 0]
        sums: dict[int, list[float]] = {}
        chosen = weights.T if kind is LearnedGroupConvolution else weights
        for channel, row in enumerate(chosen):
            sums.setdefault(owners[channel], []).append(sum(abs(float(weight)) for weight in row))
        for source, values in sums.items():
            found[source, target] = sum(values) / len(values)
    return found


def _kept(layer: MaskedPointwise) -> torch.Tensor:
    return layer.connections(layer._mask)[..., 0]


KINDS = {"LGC": LearnedGroupConvolution, "SFR": SparseFeatureReactivation}


@pytest.mark.parametrize("kind", KINDS)
def test_masked_against_the_twin(kind: str) -> None:
    """Masks at random, groups and factors that differ, weights left under the masks."""
    twin = random_twin(SMALL_V2)
    mask_at_random(twin)
    layers = connections_by_kind(jax_model(twin, SMALL_V2))[kind]
    values = layer_map([layer.per_channel for layer in layers])
    np.testing.assert_allclose(values, _map_of_twin(twin, SMALL_V2, KINDS[kind]), rtol=1e-12)
    masks = [layer for layer in twin.modules() if isinstance(layer, MaskedPointwise) and type(layer) is KINDS[kind]]
    for ours, theirs in zip(layers, masks, strict=True):
        assert (ours.kept == (_kept(theirs).numpy() != 0)).all()


@pytest.mark.parametrize("architecture", [SMALL_V1, SMALL_V2], ids=["v1", "v2"])
def test_masked_and_condensed_have_the_same(architecture: CondenseNetArchitecture) -> None:
    """Condensed here and by the official conversion; read off an index in place of a mask."""
    twin = random_twin(architecture)
    prune_to_stage(twin, 100)
    masked = jax_model(twin, architecture)
    theirs = jax_model(converted(twin, halve_classifier=False), architecture)
    expected = connections_by_kind(masked)
    for network in (condense(masked), theirs):
        for ours, wanted in zip(_all(connections_by_kind(network)), _all(expected), strict=True):
            np.testing.assert_array_equal(ours.kept, wanted.kept)
            np.testing.assert_allclose(ours.importance, wanted.importance, rtol=1e-12)
    assert len(_all(expected)) == (3 if architecture is SMALL_V1 else 6)
    v1_map = layer_map([layer.per_channel for layer in expected["LGC"]])
    np.testing.assert_allclose(v1_map, _map_of_twin(twin, architecture, LearnedGroupConvolution), rtol=1e-12)


def _all(found: dict[str, list[Connections]]) -> list[Connections]:
    """Of every learned convolution that there is."""
    return [*found["LGC"], *found["SFR"]]


def test_a_connection_of_weight_zero_is_one() -> None:
    """What is kept is read off the mask, not off the weights."""
    twin = random_twin(SMALL_V1)
    model = jax_model(twin, SMALL_V1)
    prune(model, 3)
    conv = model.blocks[0][0].lgc
    conv.kernel[...] = jnp.zeros_like(conv.kernel[...])
    found = connections_of(conv)
    assert found.kept.sum(1).tolist() == [4] * 4 and not found.importance.any()


@pytest.mark.parametrize("channel", [-1, 10**6])
def test_an_index_beyond_the_channels(channel: int) -> None:
    model = jax_model(random_twin(SMALL_V1), SMALL_V1)
    prune(model, 3)
    broken = nnx.clone(condense(model))
    lgc = broken.blocks[0][1].lgc
    assert isinstance(lgc, CondensedGroupConv)
    index = lgc.index
    index[...] = index[...].at[0, 0].set(channel)
    with pytest.raises(UserError, match=rf"layer 2, LGC: its index values .*{channel}.* channels"):
        connections_by_kind(broken)
