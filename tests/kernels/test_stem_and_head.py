"""The kernels of the first convolution and of the head, beside plain JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdnv2_jax.kernels.inference import Norm, head, stem
from tests.tables import table
from tests.twin_models import assert_near

pytestmark = pytest.mark.usefixtures("kernels")

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


@table("stride", [1, 2, 3])
@table("shape", [(1, 1, 1, 3), (2, 2, 3, 3), (1, 7, 10, 3), (3, 33, 6, 1), (1, 5, 67, 4), (2, 9, 11, 37), (0, 4, 4, 3)])
def test_stem(shape: tuple[int, ...], stride: int) -> None:
    images, kernel = normal(*shape), normal(3, 3, shape[-1], 13)
    layout = ("NHWC", "HWIO", "NCHW")
    expected = jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=layout, precision="highest"
    )
    assert_near(stem(images, kernel, stride), expected, 1e-6)


def test_stem_keeps_what_is_not_a_number_to_its_neighbourhood() -> None:
    images = normal(1, 9, 9, 3).at[0, 4, 4, 1].set(np.nan)
    found = np.isnan(stem(images, normal(3, 3, 3, 2), 1))
    assert found[0, :, 3:6, 3:6].all()
    assert found.sum() == 2 * 9


@table("shape", [(1, 5, 1, 1), (2, 600, 7, 7), (3, 4, 2, 9), (0, 3, 2, 2)])
def test_head(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    scale, bias, mean, noise = (normal(shape[1]) for _ in range(4))
    norm = Norm(scale, bias, mean, jnp.abs(noise) + 0.1)
    factor = norm.scale / jnp.sqrt(norm.var + 1e-5)
    activated = jax.nn.relu((x - norm.mean[:, None, None]) * factor[:, None, None] + norm.bias[:, None, None])
    assert_near(head(x, norm), activated.mean((2, 3)), 1e-5)


def test_head_does_not_hide_what_is_not_a_number() -> None:
    norm = Norm(jnp.ones(2), jnp.zeros(2), jnp.zeros(2), jnp.ones(2))
    for place in (0, 8):  # among full vectors, and in the rest
        found = np.isnan(head(jnp.zeros((1, 2, 3, 3)).at[0, 1, place // 3, place % 3].set(np.nan), norm))
        np.testing.assert_array_equal(found, [[False, True]])


@table("length", [1, 3])
def test_wrong_calls_are_refused(length: int) -> None:
    norm = Norm(*(jnp.ones(length) for _ in range(4)))
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="BatchNorm does not fit"):
        head(jnp.ones((1, 2, 3, 3)), norm).block_until_ready()
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="do not fit"):
        stem(jnp.ones((1, 4, 4, 3)), jnp.ones((3, length, 3, 2))[:, :2], 1).block_until_ready()
