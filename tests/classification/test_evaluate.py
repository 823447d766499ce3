"""A network over a data set: each sample once, whatever the batch size."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import create_model
from cdnv2_jax.classification.evaluation import ClassificationEvaluation, _classified, evaluate, score
from cdnv2_jax.data.batches import HostBatch
from cdnv2_jax.data.on_device import Normalisation
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.weights.programs import compiled_forward

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (11, 8, 8, 3), np.uint8)
LABELS = RANDOM.integers(0, 4, 11).astype(np.int32)
NORMALISATION = Normalisation((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
IMAGES = ((PIXELS / 255 - NORMALISATION.mean) / NORMALISATION.std).astype(np.float32)


def _batches(batch_size: int, filler: int = 0) -> Iterator[HostBatch]:
    """All images in order, the last batch filled up with rows that are not real."""
    for start in range(0, len(PIXELS), batch_size):
        missing = max(0, start + batch_size - len(PIXELS))
        images, labels = PIXELS[start : start + batch_size], LABELS[start : start + batch_size]
        yield {
            "image": np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=filler),
            "label": np.pad(labels, (0, missing)),
            "real": np.arange(batch_size) < batch_size - missing,
        }


@pytest.fixture(scope="module")
def network() -> CondenseNet:
    model = create_model(
        "condensenet_50", num_classes=4, rngs=nnx.Rngs(0), stages=(1,), growth=(4,), groups=2, condensation_factor=2
    )
    assert isinstance(model, CondenseNet)
    model.eval()
    return model


@pytest.fixture(scope="module")
def whole(network: CondenseNet) -> ClassificationEvaluation:
    return score(np.asarray(jax.jit(network)(jnp.asarray(IMAGES))), LABELS)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 11, 16])
@pytest.mark.parametrize("filler", [0, 255])
def test_every_sample_counts_once(
    batch_size: int, filler: int, network: CondenseNet, whole: ClassificationEvaluation
) -> None:
    result = evaluate(network, _batches(batch_size, filler), NORMALISATION)
    assert result.count == 11
    assert (result.top1, result.top5) == (whole.top1, whole.top5)
    assert result.loss == pytest.approx(whole.loss, rel=1e-5)
    np.testing.assert_allclose(result.logits, whole.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(result.labels, LABELS)


def test_positions_of_images_that_cannot_be_read_are_left_out(network: CondenseNet) -> None:
    """In the middle of a batch, as a broken image is."""
    batches = list(_batches(4))
    batches[1]["real"] = np.array([True, False, True, True])
    result = evaluate(network, batches, NORMALISATION)
    assert result.images.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    np.testing.assert_array_equal(result.labels, LABELS[result.images])


def test_logits_are_float32(network: CondenseNet) -> None:
    half = CondenseNet(network.architecture, name=network.name, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    half.eval()
    assert evaluate(half, _batches(4), NORMALISATION).logits.dtype == np.float32


def test_evaluating_again_compiles_nothing(network: CondenseNet) -> None:
    classified: Any = _classified  # a jitted function has such a cache, its declared type has not
    evaluate(network, _batches(4), NORMALISATION)
    compiled = classified._cache_size()
    other = nnx.clone(network)
    other.stem.kernel[...] *= 2
    evaluate(other, _batches(4), NORMALISATION)
    assert classified._cache_size() == compiled


def test_per_class(network: CondenseNet) -> None:
    """Three classes, the middle one without images."""
    logits = np.array([[3, 2, 1], [1, 2, 3], [0, 0, 5], [9, 0, 1]], np.float32)
    result = score(logits, np.array([0, 0, 2, 2]))
    assert result.per_class() == [(2, 0.5, 1.0), (0, 0.0, 0.0), (2, 0.5, 1.0)]


def test_compiled_forward_is_the_network(network: CondenseNet) -> None:
    np.testing.assert_allclose(compiled_forward(network)(IMAGES), network(jnp.asarray(IMAGES)), rtol=1e-5, atol=1e-6)


def test_compiled_forward_keeps_the_weights_it_was_made_with(network: CondenseNet) -> None:
    model = nnx.clone(network)
    forward = compiled_forward(model)
    before = np.asarray(forward(IMAGES))
    model.stem.kernel[...] *= 2
    np.testing.assert_array_equal(forward(IMAGES), before)
    assert np.abs(compiled_forward(model)(IMAGES) - before).max() > 1e-3
