"""COCO's format as tools write it: the same boxes and labels, in the file's own ids, which pycocotools reads back."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cdnv2_jax import UserError
from cdnv2_jax.detection.data.coco_json import read_coco
from cdnv2_jax.detection.data.sources import open_source
from tests.tables import table

from . import coco_files
from .test_coco_json import TARGETS

Content = dict[str, Any]
Change = Callable[[Content], object]


def _all(made: Content, part: str, **changes: Callable[[Any], Any]) -> None:
    for item in made[part]:
        for key, change in changes.items():
            if key in item:
                item[key] = change(item[key])


def _ids(change: Callable[[Any], Any]) -> Change:
    def apply(made: Content) -> None:
        _all(made, "images", id=change)
        _all(made, "categories", id=change)
        _all(made, "annotations", id=change, image_id=change, category_id=change)

    return apply


def _without(part: str, *keys: str) -> Change:
    return lambda made: [item.pop(key, None) for item in made[part] for key in keys]


SAME: dict[str, Change] = {
    "numbers as text": _ids(str),
    "text": _ids(lambda number: f"no. {number:02}"),
    "decimal ids": _ids(float),
    "text in the images alone": lambda made: _all(made, "images", id=str),
    "decimal sides": lambda made: _all(made, "images", height=float, width=float),
    "decimal boxes": lambda made: _all(made, "annotations", bbox=lambda box: [float(one) for one in box]),
    "null flags": lambda made: _all(made, "annotations", iscrowd=lambda flag: flag or None, ignore=lambda f: f or None),
    "flags as truth": lambda made: _all(made, "annotations", iscrowd=bool, ignore=bool),
    "no areas": _without("annotations", "area"),
    "null areas": lambda made: _all(made, "annotations", area=lambda _: None),
    "no ids of annotations": _without("annotations", "id"),
    "ids of annotations twice": lambda made: _all(made, "annotations", id=lambda number: number // 2),
    "more keys": lambda made: [
        item.update(attributes={"x": float("nan")}, segmentation=[], score=None, license=None)
        for part in ("images", "annotations", "categories")
        for item in made[part]
    ],
    "separators of Windows": lambda made: _all(made, "images", file_name=lambda name: f".\\{name}"),
}


@table("change", SAME)
def test_same_boxes(change: Change, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory, made = tmp_path_factory.mktemp("data"), coco_files.content()
    file = coco_files.write(directory, made)
    change(made)
    file.write_text(json.dumps(made))
    source = read_coco(directory, "train")
    assert source.class_names == ["person", "car", "brush"]
    for index, (boxes, labels) in enumerate(TARGETS.values()):
        sample = source[index]
        np.testing.assert_array_equal(sample.boxes, boxes)
        np.testing.assert_array_equal(sample.labels, labels)
    assert source.image_ids == [image["id"] for image in made["images"]]
    assert set(source.category_ids) == {one["id"] for one in made["categories"]}


@table("change", [_ids(str), _ids(lambda number: f"no. {number}"), _ids(int)])
def test_results_are_read_by_pycocotools(change: Change, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its own program, with the user's own file, finds what is annotated."""
    directory, made = tmp_path_factory.mktemp("data"), coco_files.content()
    file = coco_files.write(directory, made)
    made["annotations"] = [{"iscrowd": 0, **one} for one in made["annotations"] if one["area"]]
    change(made)
    for number, one in enumerate(made["annotations"], 1):
        one["id"] = number  # all that pycocotools can read
    file.write_text(json.dumps(made))
    truth = read_coco(directory, "train").annotations()["annotations"]
    results = [{**{key: one[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.5} for one in truth]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(file))
        evaluation = COCOeval(theirs, theirs.loadRes(json.loads(json.dumps(results))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == 1


def test_areas_are_those_of_the_boxes_if_there_are_none(tmp_path: Path) -> None:
    made = coco_files.content()
    _without("annotations", "area")(made)
    coco_files.write(tmp_path, made)
    source = read_coco(tmp_path, "train")
    expected = [
        b[2] * b[3] for image in (42, 7) for b in (a["bbox"] for a in made["annotations"] if a["image_id"] == image)
    ]
    assert source.arrays.areas.tolist() == expected


@table("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_mark(encoding: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("data")
    file = coco_files.write(directory, coco_files.content())
    file.write_text(file.read_text(), encoding=encoding)
    assert len(read_coco(directory, "train")) == 3


def _roboflow(directory: Path, file: Path) -> None:
    folder = file.parents[1] / "train2017"
    shutil.move(file, folder / "_annotations.coco.json")
    folder.rename(directory / "valid")


def _moved(images: str, annotations: str) -> Callable[[Path, Path], object]:
    def move(directory: Path, file: Path) -> None:
        for source, target in ((directory / "train2017", images), (file, annotations)):
            (directory / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, directory / target)

    return move


LAYOUTS: dict[str, tuple[Callable[[Path, Path], object], str, str]] = {
    "COCO": (_moved("val2017", "annotations/instances_val2017.json"), "", ""),
    "no year": (_moved("val", "annotations/instances_val.json"), "", ""),
    "valid": (_moved("valid", "annotations/instances_valid.json"), "", ""),
    "test": (_moved("test", "annotations/instances_test.json"), "", ""),
    "Roboflow": (_roboflow, "", ""),
    "names with the folder": (_moved("val2017", "annotations/instances_val2017.json"), "", "val2017/"),
    "folders in images": (_moved("images/val", "annotations/instances_val.json"), "", ""),
    "one folder of images": (_moved("images", "annotations/val.json"), "", ""),
    "a file that is named": (_moved("photographs", "exported/result.json"), "exported/result.json", "photographs/"),
    "keypoints": (
        _moved("val2017", "annotations/person_keypoints_val2017.json"),
        "annotations/person_keypoints_val2017.json",
        "",
    ),
    "test-dev": (
        _moved("test2017", "annotations/image_info_test-dev2017.json"),
        "annotations/image_info_test-dev2017.json",
        "",
    ),
}


@table("move, named, prefix", LAYOUTS)
def test_layouts(
    move: Callable[[Path, Path], object], named: str, prefix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory, made = tmp_path_factory.mktemp("data"), coco_files.content()
    file = coco_files.write(directory, made)
    _all(made, "images", file_name=lambda name: prefix + name)
    file.write_text(json.dumps(made))
    move(directory, file)
    source = open_source("coco", directory=str(directory), split="val", annotations=named)
    for sample in map(source.__getitem__, range(3)):
        assert tuple(sample.pixels()[0, 0]) == coco_files.colour_of(int(sample.image_id))


def test_images_that_are_nowhere(tmp_path: Path) -> None:
    """The folder that has most of them is named."""
    made = coco_files.content()
    file = coco_files.write(tmp_path, made)
    (tmp_path / "images").mkdir()
    (tmp_path / "train2017" / "empty.png").rename(tmp_path / "images" / "empty.png")
    with pytest.raises(UserError, match=r"train2017 lacks 1 of 3 images, 'empty\.png'"):
        read_coco(tmp_path, "train")
    with pytest.raises(UserError, match=r"config\.data\.train_annotations: .*gone\.json is not a file"):
        open_source("coco", directory=str(tmp_path), split="train", annotations="gone.json")
    with pytest.raises(UserError, match=r"config\.data\.train_annotations is for the source 'coco'"):
        open_source("tfds", directory=str(tmp_path), split="train", annotations=str(file))


def _with_parent(made: Content, **changes: Any) -> None:
    made["categories"] = [{**one, "supercategory": "things"} for one in made["categories"]]
    made["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"} | changes)


def test_parent_category_of_roboflow(tmp_path: Path) -> None:
    made = coco_files.content()
    _with_parent(made)
    file = coco_files.write(tmp_path, made)
    source = read_coco(tmp_path, "train")
    assert source.class_names == ["person", "car", "brush"] and source.annotations()["categories"][0]["id"] == 1
    np.testing.assert_array_equal(source[0].labels, TARGETS[42][1])
    assert source.remarks == ["category 0, 'things', is no class: it has no objects and is the parent of all others"]
    for change in (
        lambda made: made["annotations"][0].update(category_id=0),  # it has an object
        lambda made: made["categories"][2].update(supercategory="others"),
        lambda made: made["categories"][0].update(id=5),
    ):
        made = coco_files.content()
        _with_parent(made)
        change(made)
        file.write_text(json.dumps(made))
        assert "things" in read_coco(tmp_path, "train").class_names


def test_without_annotations(tmp_path: Path) -> None:
    made = coco_files.content()
    del made["annotations"]
    coco_files.write(tmp_path, made, split="val2017")
    held_out = open_source("coco", directory=str(tmp_path), split="val")
    assert not held_out.is_annotated and held_out.remarks == ["no annotations: nothing can be scored"]
    assert len(held_out) == 3 and held_out[1].boxes.shape == (0, 4)
    coco_files.write(tmp_path, made, split="train2017")
    with pytest.raises(UserError, match=r"instances_train2017\.json has no list 'annotations'"):
        read_coco(tmp_path, "train")


def test_remarks(tmp_path: Path) -> None:
    """Counted by hand in `coco_files`; a second crowd of 150 objects, and an image of a crowd alone."""
    made = coco_files.content()
    made["images"] += [{"id": number, "file_name": f"{number}.png", "height": 40, "width": 40} for number in (1, 2)]
    made["images"].append({"id": 3, "file_name": "3.png", "height": 20, "width": 40})
    many = [{"id": 100 + k, "image_id": 1, "category_id": 1, "bbox": [k % 30, k // 30, 9, 9]} for k in range(150)]
    made["annotations"] += [*many, {"id": 300, "image_id": 2, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 1}]
    made["annotations"].append({"id": 100, "image_id": 3, "category_id": 1, "bbox": [1, 1, 9, 9]})
    for split in ("train2017", "val2017"):
        coco_files.write(tmp_path, made, split=split)
    train = open_source("coco", directory=str(tmp_path), split="train")
    same_id = "annotation ids that are used before, as in merged files: 1; all boxes count"
    assert train.remarks == [
        same_id,
        "1 image without objects: not trained on (config.data.empty_images=drop)",
        "1 image with crowds or unusable boxes alone: not trained on",
        "1 image with a side below 32 pixels: not trained on",
        "3 boxes marked as crowd or to be ignored: not trained on",
        "3 boxes outside the image, below one pixel or without area: not trained on",
        "1 image with more than 100 boxes: a random 100 at a time",
    ]
    kept = open_source("coco", directory=str(tmp_path), split="train", keep_empty=True)
    assert "1 image without objects: background to train on" in kept.remarks
    assert open_source("coco", directory=str(tmp_path), split="val").remarks == [
        same_id,
        "1 image without objects",
        "2 boxes marked as crowd: detections in it count neither way",
    ]
    # 42, 7, 9 (empty), 1, 2 (crowd), 3 (small)
    assert train.arrays.training_indices().tolist() == [0, 1, 3]
    assert train.arrays.training_indices(keep_empty=True).tolist() == [0, 1, 2, 3]


def test_fingerprint(tmp_path: Path) -> None:
    """The same wherever the data are, and another one for any change of names, sizes, boxes or labels."""
    made = coco_files.content()
    coco_files.write(tmp_path / "one", made)
    seen = {read_coco(tmp_path / "one", "train").fingerprint()}
    (tmp_path / "one").rename(tmp_path / "two")
    assert {read_coco(tmp_path / "two", "train").fingerprint()} == seen
    changes: list[Change] = [
        lambda made: made["annotations"][0].update(bbox=[20, 30, 10, 41]),
        lambda made: made["annotations"][0].update(category_id=1),
        lambda made: made["annotations"][0].update(iscrowd=1),
        lambda made: made["annotations"].pop(),
        lambda made: made["categories"][0].update(name="broom"),
        lambda made: made["images"][0].update(width=97),
        lambda made: made["images"][0].update(file_name="another.png"),
        lambda made: made["images"].reverse(),
    ]
    for number, change in enumerate(changes):
        made = coco_files.content()
        change(made)
        coco_files.write(tmp_path / str(number), made)
        seen.add(read_coco(tmp_path / str(number), "train").fingerprint())
    assert len(seen) == 1 + len(changes)
