"""Condensed and masked networks, by kernel and by layers: the same logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import condense, create_model, prune
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.network import Network
from tests.kernels.networks import (
    V2,
    condensed_network,
    masked_network,
    program,
    random_architecture,
    random_images,
    run,
    run_with,
)
from tests.tables import table
from tests.twin_models import assert_near

pytestmark = pytest.mark.usefixtures("kernels")

TOLERANCE = 1e-5


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.soak) for n in range(2, 16))])
def test_random_architectures(seed: int) -> None:
    architecture = random_architecture(seed)
    masked = masked_network(architecture, seed)
    condensed = condense(masked)
    side = 4 * architecture.block_strides[-1]
    images = random_images(1 + seed % 3, side, side + seed % 5)
    by_layers = run(masked, images, masked_block="layers")
    for model, lowering in (
        (masked, {"masked_block": "kernel"}),
        (condensed, {"condensed_block": "layers"}),
        (condensed, {"condensed_block": "kernel"}),
    ):
        assert_near(run(model, images, **lowering), by_layers, TOLERANCE, f"{lowering}: {architecture}")


@table("stages", [0, 1])
def test_masked_networks_that_have_connections_left_to_lose(stages: int) -> None:
    model, images = masked_network(V2, stages=stages), random_images(2, 9, 8)
    assert_near(run(model, images, masked_block="kernel"), run(model, images, masked_block="layers"), TOLERANCE)


def test_masked_networks_with_more_outputs_than_are_computed_together() -> None:
    """4 · 30 outputs in two parts, 4 · 37 in four, as three parts would be unequal."""
    wide = {"growth": (30, 37), "stages": (1, 1), "lgc_groups": 1, "lgc_factor": 1, "conv_groups": 1}
    model = masked_network(V2.override({**wide, "sfr_groups": None, "sfr_factor": None}))
    images = random_images(1, 9, 8)
    assert_near(run(model, images, masked_block="kernel"), run(model, images, masked_block="layers"), TOLERANCE)


@table(
    "batch, height, width",
    [(1, 4, 4), (1, 5, 4), (0, 8, 8), (2, 7, 11), (3, 10, 10), (1, 33, 12), (2, 4, 61), (5, 9, 4)],
)
def test_odd_maps(batch: int, height: int, width: int) -> None:
    """Down to maps of 1 × 1 after two average pools, and batches that do not divide among threads."""
    images, model = random_images(batch, height, width), condensed_network()
    assert_near(run(model, images, condensed_block="kernel"), run(model, images, condensed_block="layers"), TOLERANCE)


@table("side", [(1, 1), (1, 33), (2, 3), (3, 2), (7, 1)])
def test_one_block_on_the_smallest_maps(side: tuple[int, int]) -> None:
    model = condensed_network(V2.override({"stages": (3,), "growth": (8,), "squeeze_excite_from": 0}))
    images = random_images(2, *side)
    assert_near(run(model, images, condensed_block="kernel"), run(model, images, condensed_block="layers"), TOLERANCE)


def test_features() -> None:
    """Maps of every block from stride 4 on, as the layers give them."""
    model, images = condensed_network(), random_images(2, 20, 13)
    maps = [
        run_with(model, lambda model, images: model.features(images), images, condensed_block=lowering)
        for lowering in ("kernel", "layers")
    ]
    assert list(maps[0]) == list(maps[1]) == [4]
    assert_near(maps[0][4], maps[1][4], TOLERANCE)
    blocks = [
        run_with(model, lambda model, images: list(model.block_outputs(images)), images, condensed_block=lowering)
        for lowering in ("kernel", "layers")
    ]
    for ours, theirs in zip(*blocks, strict=True):
        assert_near(ours, theirs, TOLERANCE)


def test_features_of_images_on_a_larger_canvas_are_by_layers() -> None:
    """The kernels take a map whole."""
    model = condensed_network()
    images, sizes = random_images(2, 64, 32), jnp.asarray([(64, 32), (20, 20)])
    graph, state = nnx.split(model)
    features = jax.jit(lambda state, *inputs: nnx.merge(graph, state).features(*inputs))
    blocks = jax.jit(lambda state, *inputs: list(nnx.merge(graph, state).block_outputs(*inputs)))
    for arguments, by_kernel in (((images,), True), ((images, sizes), False)):
        for function in (features, blocks):
            assert ("cdnv2." in function.lower(state, *arguments).as_text()) == by_kernel


@pytest.mark.soak  # compiling the layers takes ten to forty seconds each; smaller networks are above
@pytest.mark.parametrize("name", ["cdnv2_a", "cdnv2_b", "cdnv2_c", "condensenet_50"])
def test_networks_of_the_registry(name: str) -> None:
    model = create_model(name, rngs=nnx.Rngs(0))
    model.eval()
    prune(model, model.condensation_stages)
    images = random_images(1, 64, 96)
    by_layers = run(condense(model), images, condensed_block="layers")
    assert_near(run(condense(model), images, condensed_block="kernel"), by_layers, TOLERANCE)
    assert_near(run(model, images, masked_block="kernel"), by_layers, TOLERANCE)


def uses_kernel(model: Network, images: jnp.ndarray) -> bool:
    return "cdnv2." in program(model, images)


def test_when_kernels_are_used() -> None:
    model, images = condensed_network(), random_images(1, 8, 8)
    assert uses_kernel(model, images)
    assert uses_kernel(masked_network(V2), images)
    model.train()
    assert not uses_kernel(model, random_images(2, 8, 8))
    half = CondenseNet(V2, name="half", dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    half.eval()
    assert not uses_kernel(half, images)


def test_one_image_is_the_same_alone_and_in_a_batch() -> None:
    """Bit for bit, on however many threads it is computed."""
    model, images = condensed_network(), random_images(7, 20, 24)
    together = run(model, images, condensed_block="kernel")
    for number in range(7):
        alone = run(model, images[number : number + 1], condensed_block="kernel")
        np.testing.assert_allclose(alone, together[number : number + 1], rtol=1e-6, atol=1e-6)
