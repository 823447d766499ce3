"""BatchNorm against torch.nn.BatchNorm2d, running statistics included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn as tnn

from cdnv2_jax.layers.lowering import tracing_for
from cdnv2_jax.layers.norm import BatchNorm
from tests.layers.twin_layers import compare, random_input, share_weights
from tests.tables import table
from tests.twin_models import assert_near, nhwc

pytestmark = pytest.mark.usefixtures("x64")

CHANNELS = 6


def random_pair() -> tuple[BatchNorm, tnn.BatchNorm2d]:
    ours, twin = BatchNorm(CHANNELS, param_dtype=jnp.float64), tnn.BatchNorm2d(CHANNELS)
    share_weights(ours, twin)
    return ours, twin


@table(
    "training",
    {
        "train": True,
        "eval": False,
    },
)
@table("shape", [(4, CHANNELS, 3, 5), (2, CHANNELS, 1, 1), (1, CHANNELS, 2, 1)])
@table("joined", [0, 2])
def test_output_gradients_and_statistics(shape: tuple[int, int, int, int], training: bool, joined: int) -> None:
    ours, twin = random_pair()
    ours.joined = joined
    with tracing_for("tpu" if joined else "cpu"):
        compare(ours, twin, random_input(shape), training=training, tolerance=1e-12)


def test_running_statistics_over_several_batches() -> None:
    """Batches of different sizes: the unbiased variance n / (n − 1) depends on each batch's own n."""
    ours, twin = random_pair()
    twin.train()
    for seed, (batch, height, width) in enumerate([(2, 1, 1), (3, 2, 5), (7, 4, 4)]):
        x = random_input((batch, CHANNELS, height, width), seed)
        assert_near(ours(jnp.asarray(nhwc(x))), nhwc(twin(x)), 1e-12)
        assert twin.running_mean is not None and twin.running_var is not None
        assert_near(ours.mean[...], twin.running_mean.numpy(), 1e-12)
        assert_near(ours.var[...], twin.running_var.numpy(), 1e-12)
        assert int(ours.batches[...]) == seed + 1
    twin.eval()
    ours.eval()
    x = random_input((2, CHANNELS, 3, 3), 9)
    assert_near(ours(jnp.asarray(nhwc(x))), nhwc(twin(x)), 1e-12)
    assert int(ours.batches[...]) == 3


def test_first_batch_by_hand() -> None:
    """Values −1 and 1: mean 0, biased variance 1, unbiased 2; running 0.9 · 1 + 0.1 · 2."""
    norm = BatchNorm(1, param_dtype=jnp.float64)
    out = norm(jnp.asarray([-1.0, 1.0]).reshape(2, 1, 1, 1))
    expected = 1 / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(np.ravel(out), [-expected, expected], rtol=1e-14)
    np.testing.assert_allclose(np.ravel(norm.mean[...]), [0.0], atol=1e-15)
    np.testing.assert_allclose(np.ravel(norm.var[...]), [1.1], rtol=1e-14)


def test_starts_as_the_identity_in_evaluation() -> None:
    norm = BatchNorm(3, param_dtype=jnp.float64)
    norm.eval()
    x = jnp.asarray(nhwc(random_input((2, 3, 2, 2))))
    np.testing.assert_allclose(norm(x), x / np.sqrt(1 + 1e-5), rtol=1e-14)
    assert int(norm.batches[...]) == 0


def test_half_precision_input_keeps_its_dtype_and_float32_statistics() -> None:
    """The statistics are as exact as float32 allows, although bfloat16 has 8 bits and the mean is far from zero."""
    norm = BatchNorm(CHANNELS)
    x = jnp.asarray(nhwc(100 + random_input((8, CHANNELS, 4, 4))), jnp.bfloat16)
    out = norm(x)
    assert out.dtype == jnp.bfloat16
    assert {variable.dtype for variable in (norm.scale, norm.bias, norm.mean, norm.var)} == {jnp.dtype(jnp.float32)}
    twin = tnn.BatchNorm2d(CHANNELS).double().train()
    expected = twin(torch.from_numpy(np.asarray(x, np.float64).transpose(0, 3, 1, 2)))
    assert twin.running_mean is not None and twin.running_var is not None
    np.testing.assert_allclose(norm.mean[...], twin.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], twin.running_var.numpy(), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(out, np.float64), nhwc(expected), rtol=2**-8, atol=1e-3)


def normalised_in_two_passes(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The definition, in float64: (output, mean, biased variance)."""
    x, axes = x.astype(jnp.float64), (0, 1, 2)
    mean = x.mean(axes)
    var = jnp.square(x - mean).mean(axes)
    return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias, mean, var


def far_from_zero(deviations: float) -> np.ndarray:
    """Channels whose mean is so many deviations: small, large, negative, skewed (after ReLU) and constant ones."""
    noise = np.random.default_rng(5).standard_normal((16, 9, 9, CHANNELS))
    noise[..., 3] = np.maximum(noise[..., 3], 1)
    noise[..., 4] = 0
    size = np.array([1e-2, 30, -1, 1, 1, 0.1])
    return size * (deviations + noise)


@table("deviations", [0.0, 1.0, 1e2, 1e4])
def test_one_pass_is_exact_however_far_the_mean_is_from_zero(deviations: float) -> None:
    x = jnp.asarray(far_from_zero(deviations), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(6).standard_normal(x.shape), jnp.float32)
    norm = BatchNorm(CHANNELS)
    graph, state = nnx.split(norm)

    def loss(x: jax.Array) -> jax.Array:
        return (nnx.merge(graph, state, copy=True)(x) * weight).sum()

    def expected_loss(x: jax.Array) -> jax.Array:
        return (normalised_in_two_passes(x, norm.scale[...], norm.bias[...])[0] * weight).sum()

    gradient, expected_gradient = jax.grad(loss)(x), jax.grad(expected_loss)(x.astype(jnp.float64))
    y, (expected, mean, var) = norm(x), normalised_in_two_passes(x, norm.scale[...], norm.bias[...])
    count = x.size // CHANNELS
    np.testing.assert_allclose(norm.mean[...] * 10, mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(norm.var[...] * 10 - 9, var * count / (count - 1), rtol=1e-5, atol=1e-5)
    # In a mean of float32 itself, 1e4 deviations leave 1e-3 of a deviation.
    rounding = 1e-5 + 2e-7 * deviations
    np.testing.assert_allclose(y, expected, atol=rounding)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=rounding * np.abs(expected_gradient).max())


@table("deviations", [0.0, 1e2, 1e4])
def test_on_accelerators_bfloat16_loses_less_than_by_its_own_rounding(deviations: float) -> None:
    """There the sums are taken around the running mean, which is zero in a new network."""
    exact, norm = far_from_zero(deviations), BatchNorm(CHANNELS)
    x = jnp.asarray(exact, jnp.bfloat16)
    with tracing_for("tpu"):
        norm(x)
    _, mean, var = normalised_in_two_passes(x, norm.scale[...], norm.bias[...])
    count = x.size // CHANNELS
    error = np.abs((norm.var[...] * 10 - 9) * (count - 1) / count - var)
    assert (error <= 1e-5 * (1 + var) + 1e-6 * mean**2).all(), error
    np.testing.assert_allclose(norm.mean[...] * 10, mean, rtol=1e-6, atol=1e-6)


def test_a_single_value_per_channel_cannot_be_trained_on() -> None:
    x = jnp.ones((1, 1, 1, 3))
    norm = BatchNorm(3)
    with pytest.raises(ValueError, match="needs more than 1 value per channel, got 1"):
        norm(x)
    norm.eval()
    assert norm(x).shape == x.shape
