"""Feature maps of images on a larger canvas: those that each image has alone, whatever else the canvas holds."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax.layers.valid_region import at_stride, region_of, valid_mask
from tests.kernels.networks import V2, condensed_network, masked_network, random_images
from tests.plain_models import SMALL, plain_network
from tests.tables import table
from tests.twin_models import assert_near

HEIGHT, WIDTH = 64, 96
SIZES = [(64, 96), (33, 32)]
"""One fills the canvas; the other ends within a multiple of 32 in its height, at the edge of one in its width."""

FIVE_BLOCKS = V2.override({"stages": (1, 1, 1, 1, 1), "growth": (4, 4, 4, 8, 8), "stem_stride": 2})
NETWORKS = {
    "masked": functools.partial(masked_network, FIVE_BLOCKS),
    "condensed": functools.partial(condensed_network, FIVE_BLOCKS),
    **{name: functools.partial(plain_network, architecture) for name, architecture in SMALL.items()},
}

ALIKE = ("shufflenet_v2, torchvision", "mobilenet_v2")
"""Padded by the same layers as another of them."""


@functools.cache
def network(name: str) -> Any:
    """In evaluation mode, with BatchNorms that make something of zeros."""
    return NETWORKS[name]()


def padded(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 32) * 32, -(-size[1] // 32) * 32


def canvas(garbage: float) -> jax.Array:
    """Images at the top left, zeros up to a multiple of 32, `garbage` times random numbers beyond."""
    images = np.asarray(random_images(len(SIZES), HEIGHT, WIDTH))
    whole = garbage * np.asarray(random_images(len(SIZES), HEIGHT, WIDTH, seed=1))
    for image, target, size in zip(images, whole, SIZES, strict=True):
        height, width = padded(size)
        target[:height, :width] = 0
        target[: size[0], : size[1]] = image[: size[0], : size[1]]
    return jnp.asarray(whole)


@functools.cache
def compiled(name: str) -> Callable[..., tuple[dict[int, jax.Array], jax.Array]]:
    """(images, sizes) → the maps, and the gradient of Σ of their squares by the images."""
    graph, state = nnx.split(network(name))

    def total(images: jax.Array, state: nnx.State, sizes: jax.Array | None):
        maps = nnx.merge(graph, state).features(images, sizes)
        return sum((jnp.square(x).sum() for x in maps.values()), jnp.zeros(())), maps

    @jax.jit
    def both(state: nnx.State, images: jax.Array, sizes: jax.Array | None):
        gradient, maps = jax.grad(total, has_aux=True)(images, state, sizes)
        return maps, gradient

    return lambda images, sizes: both(state, images, sizes)


# Three programs are compiled for each network, with their derivatives.
@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.soak if n in ALIKE else ()) for n in NETWORKS])
def test_what_pads_changes_nothing(name: str) -> None:
    """Neither maps nor gradients; without `sizes` it does, even where it is zero."""
    evaluate, sizes = compiled(name), jnp.asarray(SIZES)
    maps, gradient = evaluate(canvas(garbage=3.0), sizes)
    assert list(maps) == [4, 8, 16, 32]
    height, width = padded(SIZES[1])
    whole, whole_gradient = evaluate(canvas(garbage=0.0), None)
    alone, alone_gradient = evaluate(canvas(garbage=0.0)[1:, :height, :width], None)
    for stride, x in maps.items():
        assert_near(x[:1], whole[stride][:1], 1e-5, f"stride {stride}")
        rows, columns = height // stride, width // stride
        assert_near(x[1:, :rows, :columns], alone[stride], 1e-5, f"stride {stride}")
        assert not np.asarray(x[1, rows:]).any() and not np.asarray(x[1, :, columns:]).any()
        unmasked = np.abs(whole[stride][1:, :rows, :columns] - alone[stride]).max() / np.abs(alone[stride]).max()
        # The windows of ShuffleNetV2's stem and max-pool never reach beyond an even number of rows.
        assert (unmasked > 1e-3) == (stride > 4 or "shufflenet" not in name), (stride, unmasked)
    assert np.abs(alone_gradient).max() > 0
    assert_near(gradient[:1], whole_gradient[:1], 1e-4)
    assert_near(gradient[1:, :height, :width], alone_gradient, 1e-4)
    assert not np.asarray(gradient[1, height:]).any() and not np.asarray(gradient[1, :, width:]).any()


@table(
    "shape, sizes, complaint",
    [
        ((1, 64, 70, 3), [(33, 32)], "the canvas must be a multiple of 32 pixels, got 64×70"),
        ((1, 40, 64, 3), [(33, 32)], "the canvas must be a multiple of 32 pixels, got 40×64"),
        ((2, 64, 64, 3), [(33, 32)], r"sizes must be \[2, 2\], .* got \[1, 2\]"),
        ((1, 64, 64, 1), [(33, 32)], r"images must be \[batch, height, width, 3\], got \[1, 64, 64, 1\]"),
    ],
)
@table("name", list(NETWORKS))
def test_refusals(name: str, shape: tuple[int, ...], sizes: list[tuple[int, int]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        network(name).features(jnp.zeros(shape), jnp.asarray(sizes))


def test_strides_that_regions_do_not_divide_by_are_refused() -> None:
    images, sizes = jnp.zeros((1, 64, 64, 3)), jnp.asarray([(33, 32)])
    assert region_of(images, sizes, 32) is not None
    for stride in (3, 64):
        with pytest.raises(ValueError, match=f"strides must divide 32, got {stride}"):
            region_of(images, sizes, stride)


def test_masks_of_maps() -> None:
    """⌈side / 32⌉ · 32 / stride rows and columns, counted one by one."""
    region = valid_mask(jnp.asarray(SIZES), HEIGHT, WIDTH)
    for stride in (1, 2, 4, 8, 16, 32):
        mask = at_stride(region, stride)
        assert mask is not None and mask.shape == (2, HEIGHT // stride, WIDTH // stride, 1)
        for found, size in zip(np.asarray(mask), SIZES, strict=True):
            height, width = padded(size)
            for row in range(HEIGHT // stride):
                for column in range(WIDTH // stride):
                    assert found[row, column, 0] == (row * stride < height and column * stride < width)
    assert at_stride(None, 4) is None
