"""Generated sources: the digits, which are scikit-learn's, with their fixed split, and synthetic images."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cdnv2_jax import UserError
from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.generated import SyntheticSource, digits_as_images, read_digits, split_indices

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
    train, test = split_indices()
    assert (len(train), len(test)) == (1437, 360)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(1797))
    assert (np.diff(train) > 0).all() and (np.diff(test) > 0).all()


def test_split_keeps_the_proportions() -> None:
    _, test = split_indices()
    exact = np.bincount(LABELS) * 360 / 1797
    assert np.abs(np.bincount(LABELS[test]) - exact).max() < 1


def test_split_is_scikit_learns() -> None:
    """And stays it: an accuracy means something only on the very same images."""
    _, test = split_indices()
    _, chosen = train_test_split(np.arange(1797), test_size=360, random_state=0, stratify=LABELS)
    np.testing.assert_array_equal(test, np.sort(chosen))


@pytest.mark.parametrize(("split", "part", "count"), [("train", 0, 1437), ("val", 1, 360)])
def test_digits(split: Split, part: int, count: int) -> None:
    grey, labels = load_digits(return_X_y=True)
    chosen = split_indices()[part]
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
