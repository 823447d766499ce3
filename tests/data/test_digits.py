"""scikit-learn's digits as images, and their fixed split."""

import zlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cdnv2_jax import UserError
from cdnv2_jax.data.sources.generated import digits_as_images, split_indices

PIXELS, LABELS = load_digits(return_X_y=True)


@pytest.mark.parametrize("side", [8, 16, 32])
def test_every_pixel_becomes_a_square(side: int) -> None:
    images, labels = digits_as_images(side)
    assert (images.shape, images.dtype) == ((1797, side, side, 3), np.float32)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, LABELS)
    scale = side // 8
    for number, row, column in [(0, 0, 2), (5, 3, 4), (1796, 7, 5)]:
        square = images[number, row * scale : (row + 1) * scale, column * scale : (column + 1) * scale]
        grey = PIXELS[number, 8 * row + column]  # 0 (paper) to 16 (ink)
        np.testing.assert_array_equal(square, np.full((scale, scale, 3), grey / 8 - 1, np.float32))


def test_range() -> None:
    images, _ = digits_as_images(8)
    assert (images.min(), images.max()) == (-1, 1)


@pytest.mark.parametrize("side", [4, 9, 28])
def test_side_that_does_not_fit(side: int) -> None:
    with pytest.raises(UserError, match=f"multiple of 8, got {side}"):
        digits_as_images(side)


def test_split_is_a_partition() -> None:
    train, test = split_indices(LABELS)
    assert (len(train), len(test)) == (1437, 360)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(1797))
    assert (np.diff(train) > 0).all() and (np.diff(test) > 0).all()


def test_split_keeps_the_proportions() -> None:
    _, test = split_indices(LABELS)
    exact = np.bincount(LABELS) * 360 / 1797
    assert np.abs(np.bincount(LABELS[test]) - exact).max() < 1


def test_split_is_always_the_same() -> None:
    """Pinned, because an accuracy means something only on the very same images."""
    _, test = split_indices(LABELS)
    assert list(test[:5]) == [21, 24, 28, 34, 35]
    assert zlib.crc32(test.astype(np.int64).tobytes()) == 3671426484
