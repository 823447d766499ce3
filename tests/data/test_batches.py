"""Batches: which sample comes when; the same for any number of hosts and workers; broken images."""

import dataclasses
import io
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cdnv2_jax import UserError
from cdnv2_jax.data.augment import Augmentation
from cdnv2_jax.data.batches import (
    BrokenImages,
    EvaluationRow,
    HostBatch,
    Share,
    TrainingRow,
    sample_random,
    shuffled_index,
)
from cdnv2_jax.data.on_device import Normalisation
from cdnv2_jax.data.prefetch import host_batches
from cdnv2_jax.data.preparation import IMAGENET, ImagePreparation
from cdnv2_jax.data.source import Sample, Source
from tests.data.photographs import encoded, photographs
from tests.data.readers import Encoded


@pytest.mark.parametrize(
    ("share", "positions"),
    [
        (Share(4), [0, 1, 2, 3, 4, 5]),
        (Share(4, 0, 2), [0, 1, 4, 5, 8, 9]),
        (Share(4, 1, 2), [2, 3, 6, 7, 10, 11]),
        (Share(3, 2, 3), [2, 5, 8, 11, 14, 17]),
    ],
)
def test_rows_of_a_host(share: Share, positions: list[int]) -> None:
    assert [share.position(row) for row in range(6)] == positions


@pytest.mark.parametrize(("host", "hosts"), [(0, 3), (2, 2), (-1, 2)])
def test_what_cannot_be_shared(host: int, hosts: int) -> None:
    with pytest.raises(ValueError, match="cannot share batches of 4"):
        Share(4, host, hosts)


def test_every_pass_holds_every_sample_once_in_another_order() -> None:
    passes = [[shuffled_index(position, 10, seed=3) for position in range(10 * e, 10 * e + 10)] for e in range(6)]
    assert all(sorted(order) == list(range(10)) for order in passes)
    assert len({tuple(order) for order in passes}) == 6


def test_the_order_depends_on_the_seed_alone() -> None:
    orders = [[shuffled_index(position, 50, seed) for position in range(50)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_random_numbers_of_a_position_are_its_own() -> None:
    drawn = {
        (seed, position): tuple(sample_random(seed, position).random(3)) for seed in range(3) for position in range(40)
    }
    assert len(set(drawn.values())) == 120
    np.testing.assert_array_equal(sample_random(2, 17).random(3), drawn[2, 17])


SIZE = 12
WHOLE = ImagePreparation(SIZE, "whole", "bilinear", *IMAGENET)
CENTRE = ImagePreparation(SIZE, "centre", "bicubic", *IMAGENET)
EVERYTHING = Augmentation(SIZE, "random_resized", flip=True, rand_augment="rand-m9-mstd0.5", erase_probability=0.5)


def _row(source: Encoded, batch_size: int, *, host: int = 0, hosts: int = 1, seed: int = 0, **more) -> TrainingRow:
    augmentation = more.pop("augmentation", Augmentation(SIZE))
    return TrainingRow(source, Share(batch_size, host, hosts), seed, augmentation, **more)


def _read(row: TrainingRow | EvaluationRow, first: int, last: int, workers: int = 0) -> list[HostBatch]:
    with host_batches(row, first, last, workers) as batches:
        return list(batches)


def _assert_same(ours: Sequence[HostBatch], theirs: Sequence[HostBatch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize(("hosts", "workers"), [(1, 0), (2, 0), (3, 0), (2, 2)])
def test_no_sample_is_lost_or_doubled(hosts: int, workers: int) -> None:
    """13 samples in batches of 6: three passes over the data are six and a half batches."""
    source = Encoded(13)
    shares = [_read(_row(source, 6, host=host, hosts=hosts), 0, 7, workers) for host in range(hosts)]
    whole = [np.concatenate([share[step]["index"] for share in shares]) for step in range(7)]
    stream = np.concatenate(whole)
    assert len(stream) == 42
    for start in (0, 13, 26):
        assert sorted(stream[start : start + 13]) == list(range(13))
    _assert_same([{"index": batch} for batch in whole], [{"index": b["index"]} for b in _read(_row(source, 6), 0, 7)])
    for share in shares:
        for batch in share:
            np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
            np.testing.assert_array_equal(batch["label"], batch["index"] % 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmented_batches_depend_on_seed_and_step_alone(workers: int) -> None:
    row = _row(Encoded(20, side=30), 4, augmentation=EVERYTHING)
    whole = _read(row, 0, 9)
    _assert_same(_read(row, 0, 9), whole)
    _assert_same(_read(row, 5, 9, workers), whole[5:])
    other = _read(_row(Encoded(20, side=30), 4, augmentation=EVERYTHING, seed=1), 0, 9)
    assert any((one["image"] != two["image"]).any() for one, two in zip(whole, other, strict=True))


def test_hosts_draw_what_one_would_draw() -> None:
    """Augmentation belongs to the position in the stream, not to the host that happens to read it."""
    source = Encoded(20, side=30)
    whole = _read(_row(source, 6, augmentation=EVERYTHING), 2, 5)
    parts = [_read(_row(source, 6, host=h, hosts=2, augmentation=EVERYTHING), 2, 5) for h in (0, 1)]
    joined = [{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(*parts, strict=True)]
    _assert_same(joined, whole)


def test_erasing_on_the_host_has_the_rectangles_of_the_device() -> None:
    """Same draws: outside of the rectangle left to the device, the host's image is the normalised one."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    source, augmentation = Encoded(30), Augmentation(SIZE, erase_probability=0.5)
    (left,) = _read(_row(source, 30, augmentation=augmentation), 0, 1)
    (done,) = _read(_row(source, 30, augmentation=augmentation, normalise_with=(mean, std)), 0, 1)
    assert left["image"].dtype == np.uint8 and done["image"].dtype == np.float32
    erased = 0
    for pixels, finished, (top, start, height, width) in zip(left["image"], done["image"], left["erase"], strict=True):
        expected = (pixels.astype(np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
        inside = np.zeros((SIZE, SIZE), bool)
        inside[top : top + height, start : start + width] = True
        np.testing.assert_array_equal(finished[~inside], expected[~inside])
        assert (finished[inside] != expected[inside]).all()
        erased += inside.any()
    assert 5 < erased < 25


@pytest.mark.parametrize(("hosts", "workers"), [(1, 0), (2, 0), (3, 0), (1, 2)])
def test_evaluation_sees_every_sample_once(hosts: int, workers: int) -> None:
    rows = [EvaluationRow(Encoded(13), Share(6, host, hosts), WHOLE) for host in range(hosts)]
    batches = [_read(row, 0, 3, workers) for row in rows]
    seen = [image[0, 0, 0] for step in range(3) for share in batches for image in share[step]["image"]]
    real = [bool(one) for step in range(3) for share in batches for one in share[step]["real"]]
    assert seen[:13] == list(range(13))
    assert real == [True] * 13 + [False] * 5


@pytest.mark.parametrize("preparation", [WHOLE, CENTRE])
@pytest.mark.parametrize("side", [SIZE, 30])
def test_evaluation_on_the_device_gives_what_prediction_does_on_the_host(
    preparation: ImagePreparation, side: int
) -> None:
    source = Encoded(5, side=side)
    (batch,) = _read(EvaluationRow(source, Share(5), preparation), 0, 1)
    on_device = Normalisation(preparation.mean, preparation.std)(jnp.asarray(batch["image"]))
    on_host = np.stack([preparation(source[index].pixels()) for index in range(5)])
    np.testing.assert_allclose(on_device, on_host, rtol=1e-6, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Turned(Source[Sample]):
    """One JPEG photograph whose EXIF orientation says a half turn."""

    class_names: Sequence[str] = ("a", "b")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        exif = Image.Exif()
        exif[0x0112] = 3
        return Sample(encoded(photographs(SIZE, SIZE)[0], exif=exif), index, "photograph")


def test_rows_are_upright_or_as_stored() -> None:
    file = Turned()[0].image
    assert isinstance(file, bytes)
    for upright in (True, False):
        stored = Image.open(io.BytesIO(file))
        expected = np.asarray(stored.rotate(180) if upright else stored)
        training = TrainingRow(Turned(), Share(1), 0, Augmentation(SIZE), upright=upright)
        for row in (training, EvaluationRow(Turned(), Share(1), WHOLE, upright)):
            np.testing.assert_array_equal(row(0)["image"], expected)


def test_images_above_the_limit_count_as_broken() -> None:
    source = Encoded(5)  # of 144 pixels each
    for limit, broken in ((0.000144, False), (0.000143, True)):
        (batch,) = _read(EvaluationRow(source, Share(5), WHOLE, max_megapixels=limit), 0, 1)
        assert list(batch["broken"] >= 0) == [broken] * 5
        row = _row(source, 5, max_megapixels=limit)
        if broken:
            with pytest.raises(UserError, match="none of the 5 training images"):
                row(0)
            with pytest.raises(UserError, match=r"more than 0\.000143 megapixels.*config\.data\.max_megapixels"):
                BrokenImages(source, limit=0, max_megapixels=limit).check(batch)
        else:
            assert row(0)["broken"] == -1


def test_a_broken_image_gives_its_place_to_the_next() -> None:
    whole = _read(_row(Encoded(6), 6), 0, 2)
    broken = _read(_row(Encoded(6, damaged=(2, 3)), 6), 0, 2)
    for one, other in zip(whole, broken, strict=True):
        replaced = {2: 4, 3: 4}
        assert list(other["index"]) == [replaced.get(index, index) for index in one["index"]]
        assert list(other["broken"]) == [index if index in replaced else -1 for index in one["index"]]


def test_broken_images_are_named_counted_and_limited() -> None:
    source = Encoded(6, damaged=(2, 3))
    batches = _read(_row(source, 6), 0, 2)
    counted = BrokenImages(source, limit=2)
    assert sorted(counted.check(batches[0])) == ["image 2", "image 3"]
    assert counted.check(batches[1]) == []  # met before
    with pytest.raises(UserError, match=r"^image [23] cannot be read .*config\.data\.max_broken_images") as error:
        BrokenImages(source, limit=1).check(batches[0])
    assert "at most 1" in str(error.value)
    with pytest.raises(UserError, match="none may be broken"):
        BrokenImages(source, limit=0).check(batches[0])


def test_broken_images_in_evaluation_are_left_out() -> None:
    source = Encoded(5, damaged=(1,))
    (batch,) = _read(EvaluationRow(source, Share(6), CENTRE), 0, 1)
    assert list(batch["real"]) == [True, False, True, True, True, False]
    assert BrokenImages(source, limit=1).check(batch) == ["image 1"]


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_broken_images(workers: int) -> None:
    with pytest.raises(Exception, match="none of the 3 training images can be read"):
        _read(_row(Encoded(3, damaged=(0, 1, 2)), 3), 0, 1, workers)
