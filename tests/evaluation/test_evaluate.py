"""A network over a data set: each sample once, whatever the batch size."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import create_model
from cdnv2_jax.data.batches import padded_batches
from cdnv2_jax.evaluation import compiled_forward, evaluate, score
from cdnv2_jax.models.condensenet import CondenseNet

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.standard_normal((11, 8, 8, 3)).astype(np.float32)
LABELS = RANDOM.integers(0, 4, 11).astype(np.int32)


def _linear(images: Any) -> Any:
    """Four logits that depend on the image alone."""
    weights = np.random.default_rng(1).standard_normal((IMAGES[0].size, 4)).astype(np.float32)
    return jnp.asarray(np.asarray(images).reshape(len(images), -1) @ weights)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 11, 16])
def test_every_sample_counts_once(batch_size: int) -> None:
    result = evaluate(_linear, padded_batches(IMAGES, LABELS, batch_size))
    whole = score(np.asarray(_linear(IMAGES)), LABELS)
    assert result.count == 11
    assert (result.top1, result.top5) == (whole.top1, whole.top5)
    assert result.loss == pytest.approx(whole.loss, rel=1e-6)
    np.testing.assert_allclose(result.logits, whole.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result.labels, LABELS)


def test_filler_rows_do_not_matter() -> None:
    """Not even if the network gives NaN for them."""

    def fails_on_zeros(images: Any) -> Any:
        return jnp.where(jnp.any(images != 0, axis=(1, 2, 3))[:, None], _linear(images), jnp.nan)

    result = evaluate(fails_on_zeros, padded_batches(IMAGES, LABELS, 4))
    assert np.isfinite(result.logits).all()
    assert result.count == 11


def test_logits_are_float32() -> None:
    result = evaluate(lambda images: _linear(images).astype(jnp.bfloat16), padded_batches(IMAGES, LABELS, 4))
    assert result.logits.dtype == np.float32


@pytest.fixture(scope="module")
def network() -> CondenseNet:
    model = create_model(
        "condensenet_50", num_classes=4, rngs=nnx.Rngs(0), stages=(1,), growth=(4,), groups=2, condensation_factor=2
    )
    model.eval()
    return model


def test_compiled_forward_is_the_network(network: CondenseNet) -> None:
    np.testing.assert_allclose(compiled_forward(network)(IMAGES), network(jnp.asarray(IMAGES)), rtol=1e-5, atol=1e-6)


def test_compiled_forward_keeps_the_weights_it_was_made_with(network: CondenseNet) -> None:
    model = nnx.clone(network)
    forward = compiled_forward(model)
    before = np.asarray(forward(IMAGES))
    model.stem.kernel[...] *= 2
    np.testing.assert_array_equal(forward(IMAGES), before)
    assert np.abs(compiled_forward(model)(IMAGES) - before).max() > 1e-3


def test_evaluation_of_a_network(network: CondenseNet) -> None:
    result = evaluate(compiled_forward(network), padded_batches(IMAGES, LABELS, 4))
    whole = score(np.asarray(network(jnp.asarray(IMAGES))), LABELS)
    assert result.top1 == whole.top1
    np.testing.assert_allclose(result.logits, whole.logits, rtol=1e-5, atol=1e-6)
