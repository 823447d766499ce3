"""Derivatives through the kernels are those of the layers; batching by vmap."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cdnv2_jax.layers.lowering import override
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.network import Network
from tests.kernels.networks import V2, condensed_network, masked_network, random_images, run
from tests.twin_models import assert_near

pytestmark = pytest.mark.usefixtures("kernels")

IMAGES = random_images(2, 9, 8)
SMALL = V2.override({"stages": (1, 1), "growth": (4, 8), "squeeze_excite_from": 1, "head_width": None})


def both(function: Any, *inputs: Any) -> tuple[Any, Any]:
    """What the function gives by kernel and by layers."""
    found = []
    for lowering in ("kernel", "layers"):
        with override(condensed_block=lowering, masked_block=lowering):
            found.append(jax.jit(function)(*inputs))
    return found[0], found[1]


def assert_same(function: Any, *inputs: Any) -> None:
    ours, theirs = (jax.tree.leaves(found) for found in both(function, *inputs))
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert_near(one, other, 1e-4)


@pytest.fixture
def model() -> CondenseNet:
    return condensed_network(SMALL)


@pytest.mark.parametrize("network", [condensed_network, masked_network])
def test_gradients_of_parameters_and_images(network: Callable[..., CondenseNet]) -> None:
    model = network(SMALL)
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def loss(parameters: nnx.State, images: jax.Array) -> jax.Array:
        return jnp.square(nnx.merge(graph, parameters, rest)(images)).sum()

    assert_same(jax.grad(loss, argnums=(0, 1)), parameters, IMAGES)


def test_forward_mode_and_second_derivatives(model: Network) -> None:
    graph, state = nnx.split(model)

    def loss(images: jax.Array) -> jax.Array:
        return jnp.square(nnx.merge(graph, state)(images)).sum()

    assert_same(lambda x: jax.jvp(loss, (x,), (jnp.ones_like(x),)), IMAGES)
    assert_same(lambda x: jax.jvp(jax.grad(loss), (x,), (jnp.ones_like(x),)), IMAGES)


def test_in_remat_and_scan(model: Network) -> None:
    graph, state = nnx.split(model)

    def loss(images: jax.Array) -> jax.Array:
        forward = jax.checkpoint(lambda image: nnx.merge(graph, state)(image[None]))
        return jax.lax.scan(lambda total, image: (total + forward(image).sum(), None), jnp.zeros(()), images)[0]

    assert_same(jax.value_and_grad(loss), IMAGES)


def test_vmap_over_images(model: Network) -> None:
    graph, state = nnx.split(model)
    expected = run(model, IMAGES, condensed_block="layers")
    ours, _ = both(jax.vmap(lambda image: nnx.merge(graph, state)(image[None])[0]), IMAGES)
    assert_near(ours, expected, 1e-5)


def test_vmap_over_networks() -> None:
    graph, _ = nnx.split(condensed_network(SMALL))
    states = [nnx.split(condensed_network(SMALL, seed))[1] for seed in (0, 1)]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *states)
    ours, _ = both(jax.vmap(lambda state: nnx.merge(graph, state)(IMAGES)), stacked)
    for number, state in enumerate(states):
        assert_near(ours[number], run(nnx.merge(graph, state), IMAGES, condensed_block="layers"), 1e-5)


def test_vmap_of_gradients(model: Network) -> None:
    graph, state = nnx.split(model)

    def loss(image: jax.Array) -> jax.Array:
        return jnp.square(nnx.merge(graph, state)(image[None])).sum()

    assert_same(jax.vmap(jax.grad(loss)), IMAGES)
