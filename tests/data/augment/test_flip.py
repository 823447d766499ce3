"""Mirroring."""

import numpy as np
import pytest

from cdnv2_jax.data.augment.training_image import draw_flip, flip


def test_flip() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(flip(image), image[:, ::-1])
    np.testing.assert_array_equal(flip(image[:1, :1]), image[:1, :1])
    rng = np.random.default_rng(0)
    assert np.mean([draw_flip(rng) for _ in range(10_000)]) == pytest.approx(0.5, abs=0.025)
