"""What is done to batches on the device, against closed forms and the host's way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdnv2_jax.data.on_device import Normalisation, TrainingPreprocessing, erased

NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
LABELS = np.arange(6, dtype=np.int32)


def test_normalisation() -> None:
    expected = (PIXELS / 255 - np.array(NORMALISATION.mean)) / np.array(NORMALISATION.std)
    np.testing.assert_allclose(NORMALISATION(jnp.asarray(PIXELS)), expected, rtol=1e-5, atol=1e-6)


def test_what_is_normalised_stays() -> None:
    images = jnp.asarray(expected := np.float32(PIXELS) / 7)
    np.testing.assert_array_equal(NORMALISATION(images), expected)


def test_erasing() -> None:
    """Noise inside, nothing outside; no height or width: nothing at all; to the very border."""
    rectangles = np.array([[2, 3, 4, 5], [0, 0, 0, 0], [0, 0, 16, 16], [15, 15, 1, 1], [3, 3, 0, 5], [4, 0, 12, 2]])
    images = np.zeros((6, 16, 16, 3), np.float32)
    result = np.asarray(erased(jnp.asarray(images), jnp.asarray(rectangles), jax.random.key(0)))
    for image, (top, left, height, width) in zip(result, rectangles, strict=True):
        expected = np.zeros((16, 16), bool)
        expected[top : top + height, left : left + width] = True
        np.testing.assert_array_equal((image != 0).all(-1), expected)
        np.testing.assert_array_equal((image != 0).any(-1), expected)


def test_the_noise_is_standard_normal() -> None:
    whole = jnp.asarray([[0, 0, 64, 64]] * 16)
    noise = np.asarray(erased(jnp.zeros((16, 64, 64, 3)), whole, jax.random.key(1))).ravel()
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    assert abs((noise**4).mean() - 3) < 5 * np.sqrt(96 / noise.size)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup(alpha: float) -> None:
    """Each image with its opposite, one share for all, both labels kept."""
    preprocess = TrainingPreprocessing(NORMALISATION, seed=0, mixup=alpha)
    batch = preprocess({"image": jnp.asarray(PIXELS), "label": jnp.asarray(LABELS)}, jnp.int32(3))
    share = float(batch["share"][0])
    images = np.asarray(NORMALISATION(jnp.asarray(PIXELS)))
    np.testing.assert_allclose(batch["image"], share * images + (1 - share) * images[::-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(batch["other_label"], LABELS[::-1])
    assert (np.asarray(batch["share"]) == share).all()


def test_shares_of_mixup_are_beta_distributed() -> None:
    """Beta(α, α): mean ½, variance 1 / (4 (2 α + 1))."""
    preprocess = TrainingPreprocessing(NORMALISATION, seed=0, mixup=0.4)
    batch = {"image": jnp.zeros((2, 1, 1, 3)), "label": jnp.zeros(2, jnp.int32)}
    shares = np.asarray(jax.vmap(lambda step: preprocess(batch, step)["share"][0])(jnp.arange(4000)))
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 1 / (4 * 1.8)) < 0.01


def test_chance_depends_on_seed_and_step_alone() -> None:
    batch = {"image": jnp.asarray(PIXELS), "label": jnp.asarray(LABELS), "erase": jnp.asarray([[0, 0, 9, 9]] * 6)}

    def images(seed: int, step: int) -> np.ndarray:
        return np.asarray(TrainingPreprocessing(NORMALISATION, seed)(batch, jnp.int32(step))["image"])

    np.testing.assert_array_equal(images(1, 2), images(1, 2))
    assert (images(1, 2) != images(1, 3)).any() and (images(1, 2) != images(2, 2)).any()
