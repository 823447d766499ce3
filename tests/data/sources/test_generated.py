"""The sources that need no files: digits and synthetic images."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cdnv2_jax import UserError
from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.generated import SyntheticSource, read_digits, split_indices


@pytest.mark.parametrize(("split", "part", "count"), [("train", 0, 1437), ("val", 1, 360)])
def test_digits(split: Split, part: int, count: int) -> None:
    grey, labels = load_digits(return_X_y=True)
    chosen = split_indices(labels)[part]
    source = read_digits(split, 16)
    assert (len(source), list(source.class_names)) == (count, list("0123456789"))
    for index in (0, 1, count - 1):
        levels = [[round(level * 255 / 16) for level in row] for row in grey[chosen[index]].reshape(8, 8).tolist()]
        sample = source[index]
        assert isinstance(sample.image, np.ndarray)
        assert (sample.image.shape, sample.image.dtype) == ((16, 16, 3), np.uint8)
        assert sample.label == labels[chosen[index]]
        for row in range(16):
            for column in range(16):
                assert sample.image[row, column].tolist() == [levels[row // 2][column // 2]] * 3


def test_digits_in_another_size() -> None:
    with pytest.raises(UserError, match="multiple of 8"):
        read_digits("train", 12)


def _pixels(source: SyntheticSource) -> np.ndarray:
    return np.stack([np.asarray(source[index].image) for index in range(len(source))])


@pytest.mark.parametrize("size", [1, 7, 32])
def test_synthetic_images(size: int) -> None:
    source = SyntheticSource("train", size, 3, 5)
    images = _pixels(source)
    assert (images.shape, images.dtype) == ((5, size, size, 3), np.uint8)
    assert [source[index].label for index in range(5)] == [0, 1, 2, 0, 1]
    assert len(source.class_names) == 3
    np.testing.assert_array_equal(images, _pixels(SyntheticSource("train", size, 3, 5)))
    with pytest.raises(IndexError):
        source[5]


def test_synthetic_counts() -> None:
    assert (len(SyntheticSource("train", 8, 2)), len(SyntheticSource("val", 8, 2))) == (1280, 256)


def test_synthetic_classes_can_be_learned() -> None:
    """By nearest mean, from the training images; and no image occurs in both splits."""
    train, val = SyntheticSource("train", 16, 4, 40), SyntheticSource("val", 16, 4, 40)
    learned, held_out = _pixels(train).astype(float), _pixels(val).astype(float)
    means = np.stack([learned[label::4].mean(axis=0) for label in range(4)])
    distances = ((held_out[:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert distances.argmin(axis=1).tolist() == [val[index].label for index in range(40)]
    assert not any((image == other).all() for image in learned for other in held_out)
