"""Rows and batches: boxes lie on their objects after all that is done to an image; complete; the same for all hosts."""

import io

import numpy as np
import pytest
from PIL import Image

from cdnv2_jax import UserError
from cdnv2_jax.data.batches import BrokenImages, HostBatch, RowMaker, Share
from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.data.prefetch import host_batches
from cdnv2_jax.detection.data.annotations import AnnotationArrays, DetectionSource
from cdnv2_jax.detection.data.batches import DetectionEvaluationRow, DetectionTrainingRow, padded_targets
from cdnv2_jax.detection.pictures import example_pictures

SHORT, LONG = 64, 96
PREPARATION = CanvasPreparation(SHORT, LONG)
BACKGROUND, OBJECT = 40, 200


class Pictures(DetectionSource):
    """Grey images with one bright rectangle each, PNGs; landscape but for every third; the last has nothing in it."""

    def __init__(self, count: int, damaged: tuple[int, ...] = (), wrong: tuple[int, ...] = ()):
        self.damaged, self.wrong = damaged, wrong
        i = np.arange(max(count - 1, 0))
        arrays = AnnotationArrays(
            image_ids=1000 + np.arange(count),
            sizes=np.array([self.size(index) for index in range(count)], np.int32),
            ends=np.minimum(np.arange(count + 1), len(i)),
            ids=i,
            labels=(i % 2).astype(np.int32),
            boxes=np.stack([3.0 + i, np.full(len(i), 10.0), 27.0 - i, 11.0 + i], axis=1),
            areas=(27.0 - i) * (11.0 + i),
            crowd=np.zeros(len(i), bool),
            ignored=np.zeros(len(i), bool),
        )
        super().__init__(arrays, ["a", "b"], [1, 5])

    def size(self, index: int) -> tuple[int, int]:
        height, width = 40 + index, 70 + index
        return (width, height) if index % 3 == 0 else (height, width)

    def encoded(self, index: int) -> tuple[bytes, str]:
        pixels = np.full((*self.size(index), 3), BACKGROUND, np.uint8)
        for x1, y1, x2, y2 in self.arrays.targets(index)[0].astype(int):
            pixels[y1:y2, x1:x2] = OBJECT
        file = io.BytesIO()
        Image.fromarray(pixels[: -1 if index in self.wrong else None]).save(file, "PNG")
        return b"no image" if index in self.damaged else file.getvalue(), f"image {index}"


def _training(source: Pictures, batch_size: int, host: int = 0, hosts: int = 1, seed: int = 0) -> DetectionTrainingRow:
    return DetectionTrainingRow(source, Share(batch_size, host, hosts), seed, PREPARATION)


def _evaluation(source: Pictures, batch_size: int, host: int = 0, hosts: int = 1) -> DetectionEvaluationRow:
    return DetectionEvaluationRow(source, Share(batch_size, host, hosts), PREPARATION)


def test_images_above_the_limit_count_as_broken() -> None:
    """The third image, 42 × 72 pixels, and those behind it."""
    rows = DetectionEvaluationRow(Pictures(3), Share(1), PREPARATION, max_megapixels=0.003)
    assert [int(rows(row)["broken"]) >= 0 for row in range(3)] == [rows.sample_index(row) == 2 for row in range(3)]


def test_images_too_long_for_a_sheet_are_not_drawn() -> None:
    source = Pictures(3)
    source.sizes[1] = 1, 60_000  # a sheet has room for the largest in every cell
    assert len(example_pictures(source, [])) == 2


def _read(row: RowMaker, last: int, workers: int = 0) -> list[HostBatch]:
    with host_batches(row, 0, last, workers) as batches:
        return list(batches)


def _joined(shares: list[list[HostBatch]]) -> list[HostBatch]:
    return [
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} for parts in zip(*shares, strict=True)
    ]


def _assert_same(ours: list[HostBatch], theirs: list[HostBatch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_boxes_lie_on_their_objects() -> None:
    """Within a pixel, where edges are blurred; about half of the images are flipped."""
    row, flipped = _training(Pictures(16), 5), 0
    for batch in _read(row, 3 * row.steps_per_epoch):
        assert batch["image"].shape[1:] in ((64, 96, 3), (96, 64, 3))
        for k in range(5):
            (x1, y1, x2, y2), (height, width) = batch["boxes"][k, 0], batch["size"][k]
            bright = batch["image"][k, :, :, 0] > (BACKGROUND + OBJECT) / 2
            rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
            found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_allclose(found, [x1, y1, x2, y2], atol=1)
            assert bright[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.95  # corners are round
            assert batch["valid"][k].tolist() == [True] + [False] * 99
            assert batch["labels"][k, 0] == batch["index"][k] % 2
            assert batch["boxes"][k, 1:].sum() == batch["labels"][k, 1:].sum() == 0
            assert (batch["image"][k, height:] == 0).all() and (batch["image"][k, :, width:] == 0).all()
            assert (batch["image"][k, :height, :width] > 0).all()
            assert min(height, width) == SHORT or max(height, width) == LONG
            scale = width / Pictures(16).size(int(batch["index"][k]))[1]
            flipped += abs(x1 - (3 + batch["index"][k]) * scale) > 1.5
    assert 15 < flipped < 45  # of 60


def test_types() -> None:
    (batch,) = _read(_training(Pictures(10), 2), 1)
    assert {key: (value.dtype.name, value.shape[1:]) for key, value in batch.items() if key != "image"} == {
        "size": ("int32", (2,)),
        "boxes": ("float32", (100, 4)),
        "labels": ("int32", (100,)),
        "valid": ("bool", (100,)),
        "index": ("int64", ()),
        "broken": ("int64", ()),
    }
    (batch,) = _read(_evaluation(Pictures(10), 2), 1)
    assert {key: (value.dtype.name, value.shape[1:]) for key, value in batch.items() if key != "image"} == {
        "size": ("int32", (2,)),
        "scale": ("float32", (2,)),
        "index": ("int64", ()),
        "real": ("bool", ()),
        "broken": ("int64", ()),
    }
    assert batch["image"].dtype == np.uint8


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_change_nothing(hosts: int) -> None:
    source = Pictures(14)
    whole = _read(_training(source, 6), 6)
    _assert_same(_joined([_read(_training(source, 6, host, hosts), 6) for host in range(hosts)]), whole)
    whole = _read(_evaluation(source, 6), 3)
    _assert_same(_joined([_read(_evaluation(source, 6, host, hosts), 3) for host in range(hosts)]), whole)


def test_processes_change_nothing() -> None:
    _assert_same(_read(_training(Pictures(14), 6), 4, workers=1), _read(_training(Pictures(14), 6), 4))


def test_an_epoch_shows_every_image() -> None:
    """13 with boxes: 8 landscapes in 2 batches of 6, 5 portraits in 1."""
    row = _training(Pictures(14), 6)
    assert row.steps_per_epoch == 3
    batches = _read(row, 3)
    assert set(np.concatenate([batch["index"] for batch in batches])) == set(range(13))
    assert [row.sample_index(k) for k in range(18)] == np.concatenate([batch["index"] for batch in batches]).tolist()


def test_images_without_objects() -> None:
    """The last of the five has none; it is left out, or a row without boxes."""
    kept = DetectionTrainingRow(Pictures(5), Share(1), 0, PREPARATION, keep_empty=True)
    assert (_training(Pictures(5), 1).steps_per_epoch, kept.steps_per_epoch) == (4, 5)
    rows = {int(row["index"]): row for row in map(kept, range(5))}
    assert sorted(rows) == [0, 1, 2, 3, 4]
    assert [int(rows[index]["valid"].sum()) for index in range(5)] == [1, 1, 1, 1, 0]
    assert not rows[4]["boxes"].any()


def test_seeds_differ() -> None:
    one, other = (_read(_training(Pictures(14), 6, seed=seed), 3) for seed in (0, 1))
    assert any((a["index"] != b["index"]).any() for a, b in zip(one, other, strict=True))


def test_evaluation_sees_every_image_once() -> None:
    """14 images: 9 landscapes and 5 portraits."""
    source = Pictures(14)
    row = _evaluation(source, 4)
    assert row.batches == 3 + 2
    batches = _read(row, row.batches)
    seen = []
    for batch in batches:
        for k in np.flatnonzero(batch["real"]):
            index = int(batch["index"][k])
            (height, width), (new_height, new_width) = source.size(index), batch["size"][k]
            np.testing.assert_allclose(batch["scale"][k], [new_width / width, new_height / height], rtol=1e-6)
            assert (batch["image"][k, :new_height, :new_width] > 0).all()
            assert batch["image"][k].astype(int).sum() == batch["image"][k, :new_height, :new_width].astype(int).sum()
            seen.append(index)
    assert seen == [i for i in range(14) if i % 3] + [i for i in range(14) if i % 3 == 0]
    assert [int(batch["real"].sum()) for batch in batches] == [4, 4, 1, 4, 1]
    assert [batch["image"].shape[1:3] for batch in batches] == [(64, 96)] * 3 + [(96, 64)] * 2
    for batch in batches:
        assert (batch["broken"] == -1).all() and (batch["size"] > 0).all() and (batch["scale"] > 0).all()


def test_a_broken_image_gives_its_place_to_the_next_of_its_orientation() -> None:
    """1, 2, 4, 5, 7, 8, 10, 11 are landscapes; 11, the last, gives its place to the first."""
    source = Pictures(13, damaged=(4, 5, 11, 6))
    row = _training(source, 4)
    replaced = {4: 7, 5: 7, 11: 1, 6: 9}
    counted = BrokenImages(source, limit=4)
    batches = _read(row, row.steps_per_epoch)
    wanted = [row.sample_index(k) for k in range(4 * row.steps_per_epoch)]
    assert np.concatenate([b["index"] for b in batches]).tolist() == [replaced.get(k, k) for k in wanted]
    assert np.concatenate([b["broken"] for b in batches]).tolist() == [k if k in replaced else -1 for k in wanted]
    named = [name for batch in batches for name in counted.check(batch)]
    assert sorted(named) == ["image 11", "image 4", "image 5", "image 6"]
    limited = BrokenImages(source, limit=3)
    with pytest.raises(UserError, match="at most 3 may be broken"):
        for batch in batches:
            limited.check(batch)


def test_a_broken_image_is_left_out_of_evaluation() -> None:
    source = Pictures(4, damaged=(0, 2))  # 0 and 3 are portraits
    batches = _read(_evaluation(source, 2), 2)
    assert [batch["real"].tolist() for batch in batches] == [[True, False], [False, True]]
    assert [batch["broken"].tolist() for batch in batches] == [[-1, 2], [0, -1]]
    assert BrokenImages(source, limit=2).check(batches[0]) == ["image 2"]


def test_nothing_readable_of_an_orientation() -> None:
    with pytest.raises(Exception, match="none of the 2 training images can be read"):
        _read(_training(Pictures(5, damaged=(0, 3)), 1), 4)


def test_nothing_to_train_on() -> None:
    with pytest.raises(UserError, match="no image has a box"):
        _ = _training(Pictures(1), 1).steps_per_epoch


def test_another_size_than_annotated() -> None:
    with pytest.raises(UserError, match=r"image 1 is 71 × 40 pixels, its annotations are for 71 × 41: use the orig"):
        _evaluation(Pictures(3, wrong=(1,)), 1)(0)


def test_a_hundred_boxes_at_most() -> None:
    boxes, labels = np.arange(4 * 130, dtype=np.float32).reshape(130, 4), np.arange(130, dtype=np.int32)
    made = [padded_targets(boxes, labels, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    for targets in made:
        assert targets["valid"].all() and len(set(targets["labels"])) == 100
        np.testing.assert_array_equal(targets["boxes"][:, 0], 4 * targets["labels"])
    np.testing.assert_array_equal(made[0]["labels"], made[1]["labels"])
    assert (made[0]["labels"] != made[2]["labels"]).any()
    exactly = padded_targets(boxes[:100], labels[:100], np.random.default_rng(0))
    np.testing.assert_array_equal(exactly["labels"], labels[:100])
