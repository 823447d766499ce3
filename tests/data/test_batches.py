"""Shuffled training batches, their augmentation, and padded evaluation batches."""

import numpy as np
import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.batches import ShuffledBatches, padded_batches, shift_images

COUNT, BATCH = 23, 5
"""Four batches an epoch, three images left over."""


def _numbered(count: int, side: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Images that all pixels number from 0, and labels that say so too."""
    labels = np.arange(count, dtype=np.int32)
    images = np.broadcast_to(labels[:, None, None, None], (count, side, side, 3)).astype(np.float32)
    return images, labels


def _batches(seed: int = 0, max_shift: int = 0) -> ShuffledBatches:
    return ShuffledBatches(*_numbered(COUNT), BATCH, seed, max_shift)


def _epoch(batches: ShuffledBatches, epoch: int) -> np.ndarray:
    """The numbers of an epoch's images, in their order."""
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    return np.concatenate([batches[step][1] for step in steps])


def test_batches_have_the_shape_asked_for() -> None:
    images, labels = _batches()[0]
    assert (images.shape, images.dtype) == ((BATCH, 2, 2, 3), np.float32)
    assert (labels.shape, labels.dtype) == ((BATCH,), np.int32)


def test_labels_stay_with_their_images() -> None:
    for step in range(10):
        images, labels = _batches()[step]
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)


def test_no_image_twice_in_an_epoch() -> None:
    batches = _batches()
    assert batches.steps_per_epoch == 4
    for epoch in range(5):
        numbers = _epoch(batches, epoch)
        assert len(numbers) == 20
        assert len(set(numbers)) == 20


def test_every_epoch_has_an_order_of_its_own() -> None:
    epochs = [tuple(_epoch(_batches(), epoch)) for epoch in range(5)]
    assert len(set(epochs)) == 5
    assert set().union(*epochs) == set(range(COUNT))  # nothing is left out for good


def test_whole_epoch_is_a_permutation() -> None:
    batches = ShuffledBatches(*_numbered(20), BATCH, seed=3)
    for epoch in range(3):
        assert sorted(_epoch(batches, epoch)) == list(range(20))


def test_same_seed_same_batches() -> None:
    for step in (0, 3, 4, 17):
        for one, other in zip(_batches(7, max_shift=1)[step], _batches(7, max_shift=1)[step], strict=True):
            np.testing.assert_array_equal(one, other)


def test_other_seed_other_batches() -> None:
    assert tuple(_epoch(_batches(0), 0)) != tuple(_epoch(_batches(1), 0))


def test_order_of_access_does_not_matter() -> None:
    """What makes an interrupted run go on exactly where it stopped."""
    batches = _batches(max_shift=1)
    forwards = [batches[step] for step in range(12)]
    for step in (11, 0, 6, 6, 3):
        for now, before in zip(batches[step], forwards[step], strict=True):
            np.testing.assert_array_equal(now, before)


def test_too_few_images_for_a_batch() -> None:
    with pytest.raises(UserError, match="batch_size 24 is more than the 23 training images"):
        ShuffledBatches(*_numbered(COUNT), COUNT + 1, seed=0)


def test_shift_against_a_loop() -> None:
    random = np.random.default_rng(0)
    images = random.standard_normal((30, 5, 7, 3)).astype(np.float32)
    shifts = random.integers(-4, 5, size=(30, 2))
    expected = np.full_like(images, images.min())
    for number, (down, right) in enumerate(shifts):
        for y in range(5):
            for x in range(7):
                if 0 <= y - down < 5 and 0 <= x - right < 7:
                    expected[number, y, x] = images[number, y - down, x - right]
    np.testing.assert_array_equal(shift_images(images, shifts), expected)


def test_shift_by_hand() -> None:
    image = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
    moved = shift_images(image, np.array([[1, -1]]))  # one down, one to the left
    np.testing.assert_array_equal(moved[0, :, :, 0], [[1, 1, 1], [2, 3, 1], [5, 6, 1]])


def test_no_shift() -> None:
    images, _ = _numbered(4)
    np.testing.assert_array_equal(shift_images(images, np.zeros((4, 2), int)), images)


def test_shifts_use_the_whole_range() -> None:
    """Every shift of up to `max_shift` each way, borders included, and none beyond."""
    dot = np.zeros((40, 7, 7, 3), np.float32)
    dot[:, 3, 3] = 1
    batches = ShuffledBatches(dot, np.zeros(40, np.int32), batch_size=40, seed=0, max_shift=2)
    seen = {tuple(place) for step in range(20) for place in np.argwhere(batches[step][0][..., 0])[:, 1:]}
    assert seen == {(y, x) for y in range(1, 6) for x in range(1, 6)}


@pytest.mark.parametrize("count", [1, 4, 5, 6, 23])
def test_padded_batches_hold_every_sample_once(count: int) -> None:
    images, labels = _numbered(count)
    seen_images, seen_labels = [], []
    for (batch, batch_labels), real in padded_batches(images + 1, labels, BATCH):
        assert batch.shape == (BATCH, 2, 2, 3)
        assert (batch.dtype, batch_labels.dtype, real.dtype) == (np.float32, np.int32, bool)
        assert batch_labels.shape == real.shape == (BATCH,)
        assert not batch[~real].any()
        seen_images.append(batch[real])
        seen_labels.append(batch_labels[real])
    np.testing.assert_array_equal(np.concatenate(seen_images), images + 1)
    np.testing.assert_array_equal(np.concatenate(seen_labels), labels)
    assert len(seen_labels) == -(-count // BATCH)
