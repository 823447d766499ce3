"""The layers of inference on accelerators: the same logits, and nothing left that these are slow at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax import condense, create_model, prune
from cdnv2_jax.layers.condensed import CondensedGroupConv, condensed_layers
from cdnv2_jax.layers.convolutions import block_diagonal_kernel
from cdnv2_jax.layers.dense_kernels import RoundingConv, block_diagonal, with_dense_kernels
from cdnv2_jax.layers.learned import masked_convs
from cdnv2_jax.layers.lowering import tracing_for
from cdnv2_jax.layers.norm import BatchNorm
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.network import Network
from tests.tables import table
from tests.twin_models import assert_near
from tests.weights.networks import network


def images(side: int = 32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, side, side, 3)), jnp.float32)


def program(model: nnx.Module) -> str:
    """What is traced, without the weights."""
    graph, state = nnx.split(with_dense_kernels(model))
    return str(jax.make_jaxpr(lambda state, images: nnx.merge(graph, state)(images))(state, images()))


PLATFORMS = {"tpu": "tpu", "gpu": "gpu"}


@table("platform", PLATFORMS)
@table("form", {"masked": "partly pruned", "condensed": "condensed"})
@pytest.mark.usefixtures("x64")
def test_the_same_logits(form: str, platform: str) -> None:
    small = network(form)
    assert with_dense_kernels(small) is small
    with tracing_for(platform):
        dense = with_dense_kernels(small)
        assert_near(dense(images()), small(images()), 1e-6)


def pruned_pair(dtype: DTypeLike | None = None) -> tuple[Network, Network]:
    masked = create_model("cdnv2_cifar_110", rngs=nnx.Rngs(0), dtype=dtype, stages=(2, 2), growth=(8, 16))
    masked.eval()
    prune(masked, masked.condensation_stages)
    return masked, condense(masked)


@table("platform", PLATFORMS)
def test_masked_and_condensed_are_one_program(platform: str) -> None:
    """Nothing in it gathers, scatters or masks, and every convolution has one group."""
    masked, condensed = pruned_pair()
    with tracing_for(platform):
        text = program(condensed)
        assert program(masked) == text
    assert "dot_general" in text and "feature_group_count=1" in text
    for slow in ("gather", "scatter", "iota", "tile", "feature_group_count=8"):
        assert slow not in text, slow


def test_a_layer_whose_groups_differ_stays() -> None:
    small = nnx.clone(network("condensed"))
    own = next(conv for conv in condensed_layers(small) if isinstance(conv, CondensedGroupConv))
    own.norm, own.input_norm = BatchNorm(own.index.size), None
    with tracing_for("tpu"):
        assert len(condensed_layers(with_dense_kernels(small))) == 1


def test_the_given_network_stays() -> None:
    small = network("pruned")
    with tracing_for("tpu"):
        with_dense_kernels(small)
    assert masked_convs(small)


def test_images_are_rounded_by_the_product() -> None:
    """In bfloat16 the first convolution reads them as they are; rounded before, they give the same bits."""
    _, condensed = pruned_pair(dtype=jnp.bfloat16)
    with tracing_for("tpu"):
        dense = with_dense_kernels(condensed)
    assert isinstance(condensed, CondenseNet) and isinstance(dense, CondenseNet)
    rounded = images().astype(jnp.bfloat16)
    expected = np.asarray(condensed.stem(rounded).astype(jnp.float32))
    assert isinstance(dense.stem, RoundingConv)
    given = dense.stem(rounded.astype(jnp.float32))
    assert given.dtype == jnp.bfloat16
    # The kernel, not rounded on a CPU, is within half a unit in the last place.
    np.testing.assert_allclose(given.astype(jnp.float32), expected, atol=2**-7 * np.abs(expected).max())


@table("groups", {"one": 1, "two": 2, "four": 4})
def test_block_diagonal(groups: int) -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 8)).astype(np.float32)
    expected = block_diagonal_kernel(jnp.asarray(kernel), groups, groups)
    np.testing.assert_array_equal(block_diagonal(kernel, groups), expected)
