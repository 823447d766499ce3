"""The drawn data set: reproducible, what its annotations say, and nothing hidden."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from cdnv2_jax import UserError
from cdnv2_jax.data.decode import decode
from cdnv2_jax.data.source import Split
from cdnv2_jax.detection.data import shapes
from cdnv2_jax.detection.data.coco_json import read_coco
from cdnv2_jax.detection.data.shapes import (
    CATEGORY_IDS,
    coverage,
    draw_scene,
    open_shapes,
    outline,
    run_lengths,
    write_shapes,
)

# Of pycocotools, when it decodes masks.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

Objects = list[dict[str, Any]]
SCENES = [draw_scene(np.random.default_rng(seed)) for seed in range(150)]


def _files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def _mask(item: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """As pycocotools understands the segmentation."""
    encoded = coco_mask.frPyObjects(item["segmentation"], *size)
    return coco_mask.decode(coco_mask.merge(encoded) if isinstance(encoded, list) else encoded).astype(bool)


def test_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed, images in (("a", 3, 6), ("b", 3, 6), ("c", 4, 6), ("d", 3, 9)):
        write_shapes(tmp_path / name, train_images=images, val_images=2, seed=seed)
    a, b, c, d = (_files(tmp_path / name) for name in "abcd")
    assert a == b
    assert len(a) == 2 + 6 + 2
    images = [name for name in a if name.endswith(".jpg")]
    assert all(a[name] != c[name] for name in images)
    assert all(a[name] == d[name] for name in images)  # more of them change nothing
    assert len({a[name] for name in images}) == len(images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d"]


def test_read_as_coco_is(tmp_path: Path) -> None:
    write_shapes(tmp_path / "made", train_images=8, val_images=4, seed=0)
    counts: dict[Split, int] = {"train": 8, "val": 4}
    for split, count in counts.items():
        source = read_coco(tmp_path / "made", split)
        assert (len(source), source.category_ids) == (count, [1, 3, 7, 18, 90])
        assert source.class_names == ["circle", "square", "triangle", "star", "cross"]
        for index in range(count):
            sample = source[index]
            assert isinstance(sample.image, bytes)
            assert decode(sample.image, sample.name).shape == (sample.height, sample.width, 3)
    ids = [{image["id"] for image in json.loads(file.read_text())["images"]} for file in tmp_path.glob("made/*/*.json")]
    assert not ids[0] & ids[1]


def test_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "TRAIN_IMAGES", 3)
    monkeypatch.setattr(shapes, "VAL_IMAGES", 2)
    assert len(open_shapes(tmp_path / "cache", "train")) == 3
    monkeypatch.setattr(shapes, "write_shapes", None)
    assert len(open_shapes(str(tmp_path / "cache"), "val")) == 2


def test_another_process_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it wrote stays, and nothing else is left."""
    write_shapes(tmp_path / "first", train_images=1, val_images=1, seed=0)
    monkeypatch.setattr(shapes, "refuse_existing", lambda *_, **__: None)
    before = _files(tmp_path / "first")
    write_shapes(tmp_path / "first", train_images=2, val_images=1, seed=0)
    assert _files(tmp_path / "first") == before
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_nothing_half_done_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path / "made", train_images=1, val_images=1, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file exists"):
        write_shapes(tmp_path / "file", train_images=1, val_images=1, seed=0)
    with pytest.raises(UserError, match="cannot be written"):
        write_shapes(tmp_path / "file" / "below", train_images=1, val_images=1, seed=0)
    with pytest.raises(UserError, match="at least one of each split"):
        write_shapes(tmp_path / "made", train_images=0, val_images=1, seed=0)


def test_boxes_and_areas_are_those_of_the_segmentations() -> None:
    for image, objects in SCENES:
        height, width = image.shape[:2]
        for item in objects:
            x, y, w, h = item["bbox"]
            assert min(x, y) >= 0 and x + w <= width + 0.01 and y + h <= height + 0.01
            rows, columns = np.nonzero(_mask(item, (height, width)))
            # pycocotools rounds corners to pixels, and sharp ones vanish.
            np.testing.assert_allclose([x, y], [columns.min(), rows.min()], atol=2)
            np.testing.assert_allclose([x + w, y + h], [columns.max() + 1, rows.max() + 1], atol=2)
            assert abs(item["area"] - len(rows)) <= 0.5 * (w + h) + 3
            if item["iscrowd"]:
                assert item["area"] == len(rows)
            else:
                assert 15.9 < max(w, h) < 96.1


def test_enough_of_every_object_is_visible() -> None:
    for image, objects in SCENES:
        masks = [_mask(item, image.shape[:2]) for item in objects]
        for below, mask in enumerate(masks):
            shown = mask.copy()
            for above in masks[below + 1 :]:
                shown &= ~above
            assert shown.sum() > 0.5 * mask.sum()  # 60 % of its pixels, as other rules of rounding count them


def test_objects_are_where_the_annotations_say() -> None:
    """Their middle is of one colour, up to noise, and differs from what surrounds them."""
    differing = []
    for image, objects in SCENES:
        if len(objects) == 1 and not objects[0]["iscrowd"]:
            mask = _mask(objects[0], image.shape[:2])
            inside, outside = image[mask].mean(axis=0), image[~mask].mean(axis=0)
            assert np.median(np.abs(image[mask] - inside)) < 12
            differing.append(np.abs(inside - outside).max())
    assert len(differing) > 10 and min(differing) > 20


def test_a_little_of_everything() -> None:
    objects = [item for _, items in SCENES for item in items]
    assert {item["category_id"] for item in objects} == set(CATEGORY_IDS)
    assert {len(items) for _, items in SCENES} >= {0, 1, 2, 3, 4, 5}
    assert 1 < sum(not items for _, items in SCENES) < 20
    assert 1 < sum(item["iscrowd"] for item in objects) < 30
    landscapes = sum(image.shape[1] > image.shape[0] for image, _ in SCENES)
    assert 60 < landscapes < 120
    assert {min(image.shape[:2]) for image, _ in SCENES} == {112, 120, 128}


def test_coverage_of_a_rectangle_by_hand() -> None:
    corners = np.array([[1.5, 1.0], [4.0, 1.0], [4.0, 2.5], [1.5, 2.5]])
    expected = np.zeros((4, 6))
    expected[1, 1:4], expected[2, 1:4] = [0.5, 1, 1], [0.25, 0.5, 0.5]
    np.testing.assert_allclose(coverage(corners, (4, 6)), expected, atol=0.26)
    assert coverage(corners, (4, 6)).sum() == pytest.approx(2.5 * 1.5, abs=0.9)


@pytest.mark.parametrize(("label", "area"), [(0, np.pi / 4), (1, 1.0)])
def test_outlines(label: int, area: float) -> None:
    """A circle fills π / 4 of its box, a square turned by 45° (its corners lie on the axes) just half of it."""
    x, y = outline(label, 0.0).T
    filled = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    assert filled == pytest.approx(area if label == 0 else area / 2, rel=0.01)
    assert outline(label, 1.0).min() == 0 and outline(label, 1.0).max() == 1


def test_every_class_has_its_own_outline() -> None:
    assert [len(outline(label, 0.3)) for label in range(5)] == [48, 4, 3, 10, 12]
    assert len(shapes.CLASS_NAMES) == len(CATEGORY_IDS) == 5


@pytest.mark.parametrize("first", [False, True])
def test_run_lengths(first: bool) -> None:
    mask = np.random.default_rng(0).random((7, 5)) < 0.5
    mask[0, 0] = first
    lengths: Any = run_lengths(mask)
    np.testing.assert_array_equal(coco_mask.decode(coco_mask.frPyObjects(lengths, 7, 5)), mask)
    assert sum(lengths["counts"]) == 35
