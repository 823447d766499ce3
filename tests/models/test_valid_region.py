"""Feature maps of images on a larger canvas: those that each image has alone, whatever else the canvas holds."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdnv2_jax.layers.valid_region import at_stride, valid_mask
from tests.kernels.networks import V2, condensed_network, masked_network, random_images
from tests.plain_models import SMALL, plain_network
from tests.twin_models import assert_near, call

HEIGHT, WIDTH = 96, 128
SIZES = [(96, 128), (40, 70), (33, 32)]
"""One fills the canvas; one ends within the multiple of 32, one at its edge."""

FIVE_BLOCKS = V2.override({"stages": (1, 1, 1, 2, 1), "growth": (4, 4, 4, 8, 8), "stem_stride": 2})
NETWORKS = {
    "masked": functools.partial(masked_network, FIVE_BLOCKS),
    "condensed": functools.partial(condensed_network, FIVE_BLOCKS),
    **{name: functools.partial(plain_network, architecture) for name, architecture in SMALL.items()},
}


@functools.cache
def network(name: str) -> Any:
    """In evaluation mode, with BatchNorms that make something of zeros."""
    return NETWORKS[name]()


def padded(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 32) * 32, -(-size[1] // 32) * 32


def canvas(garbage: float) -> jax.Array:
    """Images at the top left, zeros up to a multiple of 32, `garbage` times random numbers beyond."""
    images = np.asarray(random_images(len(SIZES), HEIGHT, WIDTH))
    rest = garbage * np.asarray(random_images(len(SIZES), HEIGHT, WIDTH, seed=1))
    for image, beyond, size in zip(images, rest, SIZES, strict=True):
        height, width = padded(size)
        beyond[:height, :width] = 0
        beyond[: size[0], : size[1]] = image[: size[0], : size[1]]
    return jnp.asarray(rest)


def features(name: str, images: jax.Array, sizes: list[tuple[int, int]] | None) -> dict[int, jax.Array]:
    if sizes is None:
        return call(network(name), lambda model, images: model.features(images), images)
    return call(network(name), lambda model, *inputs: model.features(*inputs), images, jnp.asarray(sizes))


@pytest.mark.parametrize("name", NETWORKS)
def test_what_pads_changes_nothing(name: str) -> None:
    maps = features(name, canvas(garbage=3.0), SIZES)
    assert list(maps) == [4, 8, 16, 32]
    for number, size in enumerate(SIZES):
        height, width = padded(size)
        alone = features(name, canvas(garbage=0.0)[number : number + 1, :height, :width], None)
        for stride, x in maps.items():
            rows, columns = height // stride, width // stride
            assert_near(x[number : number + 1, :rows, :columns], alone[stride], 1e-5, f"{size}, stride {stride}")
            rest = np.array(x[number])
            rest[:rows, :columns] = 0
            assert not rest.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_without_sizes_it_does(name: str) -> None:
    """Even zeros: they are none any more after the first batch normalisation."""
    maps = features(name, canvas(garbage=0.0), None)
    sized = features(name, canvas(garbage=0.0), SIZES)
    for stride, x in maps.items():
        assert_near(x[0], sized[stride][0], 1e-5)
        rows, columns = (side // stride for side in padded(SIZES[1]))
        difference = np.abs(x[1, :rows, :columns] - sized[stride][1, :rows, :columns]).max()
        assert difference > 1e-2 * np.abs(x[1]).max(), stride


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_stay_inside(name: str) -> None:
    """Σ of squares of all maps, differentiated by the images: nothing beyond, inside that of the image alone."""

    def gradient(model: Any, images: jax.Array, sizes: jax.Array | None) -> jax.Array:
        def total(images: jax.Array) -> jax.Array:
            return sum((jnp.square(x).sum() for x in model.features(images, sizes).values()), jnp.zeros(()))

        return jax.grad(total)(images)

    height, width = padded(SIZES[1])
    whole = call(network(name), gradient, canvas(garbage=3.0)[1:2], jnp.asarray(SIZES[1:2]))
    alone = call(
        network(name), lambda model, x: gradient(model, x, None), canvas(garbage=0.0)[1:2, :height, :width]
    )
    assert np.abs(alone).max() > 0
    assert_near(whole[:, :height, :width], alone, 1e-4)
    assert not np.asarray(whole[:, height:]).any() and not np.asarray(whole[:, :, width:]).any()


@pytest.mark.parametrize(
    ("shape", "sizes", "complaint"),
    [
        ((1, 64, 70, 3), [(33, 32)], "the canvas must be a multiple of 32 pixels, got 64×70"),
        ((1, 40, 64, 3), [(33, 32)], "the canvas must be a multiple of 32 pixels, got 40×64"),
        ((2, 64, 64, 3), [(33, 32)], r"sizes must be \[2, 2\], .* got \[1, 2\]"),
        ((1, 64, 64, 1), [(33, 32)], r"images must be \[batch, height, width, 3\], got \[1, 64, 64, 1\]"),
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_refusals(name: str, shape: tuple[int, ...], sizes: list[tuple[int, int]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        network(name).features(jnp.zeros(shape), jnp.asarray(sizes))


def test_strides_that_regions_do_not_divide_by_are_refused() -> None:
    model = masked_network(V2.override({"stages": (1,) * 6, "growth": (8,) * 6, "stem_stride": 2}))
    with pytest.raises(ValueError, match="strides must divide 32, got 64"):
        model.features(jnp.zeros((1, 64, 64, 3)), jnp.asarray([(33, 32)]))


def test_masks_of_maps() -> None:
    """⌈side / 32⌉ · 32 / stride rows and columns, counted one by one."""
    region = valid_mask(jnp.asarray(SIZES), HEIGHT, WIDTH)
    for stride in (1, 2, 4, 8, 16, 32):
        mask = at_stride(region, stride)
        assert mask is not None and mask.shape == (3, HEIGHT // stride, WIDTH // stride, 1)
        for found, size in zip(np.asarray(mask), SIZES, strict=True):
            height, width = padded(size)
            for row in range(HEIGHT // stride):
                for column in range(WIDTH // stride):
                    assert found[row, column, 0] == (row * stride < height and column * stride < width)
    assert at_stride(None, 4) is None
