"""Feature maps for detection: strides, channels, and what the maps are."""

import jax
import jax.numpy as jnp
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

from cdnv2_jax.networks.family import blank_network
from cdnv2_jax.networks.network import Form
from cdnv2_jax.networks.zoo import architecture_of
from tests.tables import table
from tests.twin_models import SMALL_V1, SMALL_V2, assert_near, call, jax_model, nhwc, random_images, random_twin


@table(
    "form",
    {
        "masked": Form(),
        "condensed": Form(condensed=True),
    },
)
@table(
    "name, channels",
    [
        ("cdnv2_a", [32, 96, 288, 800]),
        ("cdnv2_b", [72, 216, 600, 1176]),
        ("cdnv2_c", [144, 400, 1040, 2064]),
    ],
)
def test_strides_and_channels(name: str, channels: list[int], form: Form) -> None:
    graph, state = nnx.split(blank_network(architecture_of(name), form, name=name))
    images = jax.ShapeDtypeStruct((2, 96, 160, 3), jnp.float32)
    maps = jax.eval_shape(lambda state, images: nnx.merge(graph, state).features(images), state, images)
    expected = {
        stride: (2, 96 // stride, 160 // stride, count) for stride, count in zip((4, 8, 16, 32), channels, strict=True)
    }
    assert {stride: x.shape for stride, x in maps.items()} == expected
    assert architecture_of(name).feature_channels == dict(zip((4, 8, 16, 32), channels, strict=True))


@pytest.mark.usefixtures("x64")
def test_maps_are_the_blocks_outputs_the_last_normalised() -> None:
    twin = random_twin(SMALL_V2)
    images = random_images(2, 17, 16)
    with torch.no_grad():
        blocks = twin.block_features(torch.from_numpy(images))
        blocks[-1] = F.relu(twin.features["norm_last"](blocks[-1]))
    maps = call(jax_model(twin, SMALL_V2), lambda model, images: model.features(images), nhwc(images))
    assert list(maps) == [4, 8]
    assert_near(maps[4], nhwc(blocks[1]), 1e-12)
    assert_near(maps[8], nhwc(blocks[2]), 1e-12)


@pytest.mark.usefixtures("x64")
def test_a_network_of_small_strides_gives_fewer_maps() -> None:
    model = jax_model(random_twin(SMALL_V1), SMALL_V1)
    assert call(model, lambda model, images: model.features(images), nhwc(random_images(1, 8, 8))) == {}
