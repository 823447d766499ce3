"""Normalising beside the arithmetic it stands for."""

import numpy as np
import pytest

from cdnv2_jax.data.preparation import normalise


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (5, 9)])
def test_as_arithmetic(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    found = normalise(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (found.dtype, found.shape) == (np.float32, image.shape)
    np.testing.assert_array_equal(found, (image.astype(np.float32) / 255 - mean) / std)


def test_by_hand() -> None:
    found = normalise(np.array([[[0, 51, 255]]], np.uint8), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = [(0 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(found, [[expected]], rtol=1e-6)
