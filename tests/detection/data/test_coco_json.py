"""COCO's files read as they are meant, against a table by hand and pycocotools; all that can be wrong refused."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from cdnv2_jax import UserError
from cdnv2_jax.data.decode import decode
from cdnv2_jax.detection.data.annotations import Id
from cdnv2_jax.detection.data.coco_json import read_coco

from . import coco_files

# x1, y1, x2, y2 and labels by hand: ids 1, 3, 90 become 0, 1, 2.
TARGETS: dict[Id, Any] = {
    42: ([[10, 5, 30, 15], [80.5, 50.25, 110.5, 90.25]], [1, 0]),
    7: ([[20, 30, 30, 70]], [2]),
    9: (np.zeros((0, 4)), []),
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    coco_files.write(tmp_path, coco_files.content())
    return tmp_path


def test_boxes_and_labels_that_are_trained_on(directory: Path) -> None:
    source = read_coco(directory, "train")
    assert (source.class_names, source.category_ids) == (["person", "car", "brush"], [1, 3, 90])
    assert [source[index].image_id for index in range(len(source))] == [42, 7, 9]
    for index in range(3):
        sample = source[index]
        boxes, labels = TARGETS[sample.image_id]
        np.testing.assert_array_equal(sample.boxes, boxes)
        np.testing.assert_array_equal(sample.labels, labels)
        assert (sample.boxes.dtype, sample.labels.dtype) == (np.float32, np.int32)
        assert isinstance(sample.image, bytes)
        pixels = decode(sample.image, sample.name)
        assert pixels.shape == (sample.height, sample.width, 3) == (*source.sizes[index], 3)
        assert tuple(pixels[0, 0]) == coco_files.colour_of(sample.image_id)
    with pytest.raises(IndexError):
        source[3]


def test_images_without_boxes_or_too_small_are_not_trained_on(tmp_path: Path) -> None:
    """Sides of 32 pixels are enough, of 31 are not; a crowd alone is nothing to aim at."""
    made = coco_files.content()
    made["images"] += [
        {"id": 1, "file_name": "1.png", "height": 32, "width": 32},
        {"id": 2, "file_name": "2.png", "height": 31, "width": 90},
        {"id": 3, "file_name": "3.png", "height": 90, "width": 31},
        {"id": 4, "file_name": "4.png", "height": 90, "width": 90},
    ]
    for image in (1, 2, 3, 4):
        box = {"bbox": [1, 1, 9, 9], "area": 81, "iscrowd": int(image == 4)}
        made["annotations"].append({"id": 100 + image, "image_id": image, "category_id": 1, **box})
    coco_files.write(tmp_path, made)
    assert read_coco(tmp_path, "train").arrays.training_indices().tolist() == [0, 1, 3]


def test_training_indices_agree_with_the_samples(directory: Path) -> None:
    source = read_coco(directory, "train")
    with_boxes = [i for i in range(len(source)) if len(source[i].boxes)]
    assert source.arrays.training_indices().tolist() == with_boxes == [0, 1]


def test_annotations_are_those_of_the_file(directory: Path) -> None:
    truth = read_coco(directory, "train").annotations()
    ours, theirs = COCO(), COCO(str(directory / "annotations" / "instances_train2017.json"))
    ours.dataset = json.loads(json.dumps(truth))
    ours.createIndex()
    assert ours.getImgIds() == theirs.getImgIds() and sorted(ours.getCatIds()) == sorted(theirs.getCatIds())
    assert sorted(ours.anns) == sorted(theirs.anns)
    for number, annotation in theirs.anns.items():
        for key, value in {"iscrowd": 0, "ignore": 0, **annotation}.items():
            assert ours.anns[number][key] == value
    assert {c["id"]: c["name"] for c in truth["categories"]} == {1: "person", 3: "car", 90: "brush"}


def test_sent_to_another_process(directory: Path) -> None:
    source = read_coco(directory, "train")
    copied = pickle.loads(pickle.dumps(source))
    assert copied[1].image == source[1].image
    assert copied.annotations() == source.annotations()


def test_both_layouts_and_both_splits(tmp_path: Path) -> None:
    coco_files.write(tmp_path, coco_files.content(), split="train")
    held_out = coco_files.content()
    del held_out["images"][0]
    held_out["annotations"] = []
    coco_files.write(tmp_path, held_out, split="val2017")
    assert len(read_coco(tmp_path, "train")) == 3
    assert len(read_coco(tmp_path, "val")) == 2
    assert read_coco(tmp_path, "val").arrays.training_indices().tolist() == []


def test_file_names_in_folders(tmp_path: Path) -> None:
    made = coco_files.content()
    made["images"][0]["file_name"] = "inner/größe.png"
    (tmp_path / "train2017" / "inner").mkdir(parents=True)
    coco_files.write(tmp_path, made)
    assert read_coco(tmp_path, "train")[0].name.endswith("train2017/inner/größe.png")


def _annotation(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda made: made["annotations"][2].update(changes)


def _image(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda made: made["images"][1].update(changes)


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no images": (lambda made: made.pop("images"), "has no list 'images'"),
    "no annotations": (lambda made: made.pop("annotations"), "has no list 'annotations'"),
    "categories no list": (lambda made: made.update(categories={}), "has no list 'categories'"),
    "empty images": (lambda made: made["images"].clear(), "images is empty"),
    "empty categories": (lambda made: made["categories"].clear(), "categories is empty"),
    "an image that is not an object": (lambda made: made["images"].append(7), r"images\[3\] is 7, not a JSON object"),
    "image without id": (lambda made: made["images"][0].pop("id"), r"images\[0\] has no 'id'"),
    "no text as id": (_image(id=""), r"images\[1\] has 'id' '', which should be a whole number"),
    "not a number as id": (_image(id=float("nan")), r"images\[1\] has 'id' nan"),
    "a list as id": (_annotation(category_id=[1]), r"annotations\[2\] has 'category_id' \[1\]"),
    "same image twice, as text": (_image(id="42"), r"images\[1\] has the same id as one before, 42"),
    "two of a name": (lambda made: made["categories"][0].update(name="car"), r"3 and 90 are both named 'car'"),
    "truth as id": (_image(id=True), r"images\[1\] has 'id' True"),
    "huge id": (_image(id=2**63), r"images\[1\] has 'id' a huge number"),
    "same image twice": (_image(id=42), r"images\[1\] has the same id as one before, 42"),
    "no height": (lambda made: made["images"][1].pop("height"), r"images\[1\] has no 'height'"),
    "negative width": (_image(width=-50), r"images\[1\] has 'width' -50, which should be a whole number of pixels"),
    "no width at all": (_image(width=0), r"images\[1\] has 'width' 0"),
    "half pixels": (_image(height=80.5), r"images\[1\] has 'height' 80\.5"),
    "no file name": (_image(file_name=None), r"images\[1\] has no 'file_name'"),
    "number as file name": (_image(file_name=7), r"images\[1\] has 'file_name' 7"),
    "above": (_image(file_name="../portrait.png"), r"images\[1\] names a file outside .*\.\./portrait"),
    "above, further down": (_image(file_name="a/../../b.png"), r"images\[1\] names a file outside"),
    "above, as in Windows": (_image(file_name="..\\b.png"), r"images\[1\] names a file outside"),
    "absolute, as in Windows": (_image(file_name="C:\\x.png"), r"images\[1\] names a file outside"),
    "absolute": (_image(file_name="/etc/passwd"), r"images\[1\] names a file outside .*/etc/passwd"),
    "zero byte": (_image(file_name="a\0b"), r"images\[1\] has 'file_name'"),
    "missing image": (_image(file_name="gone.png"), r"train2017 lacks 1 of 3 images, 'gone\.png'"),
    "too long a name": (_image(file_name="x" * 5000), r"train2017 lacks 1 of 3 images"),
    "category without a name": (lambda made: made["categories"][0].pop("name"), r"categories\[0\] has no 'name'"),
    "half a character": (lambda made: made["categories"][0].update(name="a\ud800"), r"\[0\] has 'name' 'a\\ud800'"),
    "same category twice": (
        lambda made: made["categories"].append({"id": 3, "name": "again"}),
        r"categories\[3\] has the same id as one before, 3",
    ),
    "unknown image": (_annotation(image_id=8), r"annotations\[2\] refers to image 8, which is not among the images"),
    "unknown category": (_annotation(category_id=2), r"annotations\[2\] refers to category 2, which is not a known"),
    "half an annotation": (_annotation(id=1.5), r"annotations\[2\] has 'id' 1.5"),
    "no box": (_annotation(bbox=None), r"annotations\[2\] has no 'bbox'"),
    "three numbers": (_annotation(bbox=[1, 2, 3]), r"annotations\[2\] has 'bbox' \[1, 2, 3\], .* four numbers"),
    "text in a box": (_annotation(bbox=[1, 2, 3, "4"]), r"annotations\[2\] has 'bbox'"),
    "not a number": (_annotation(bbox=[1, 2, 3, float("nan")]), r"annotations\[2\] has 'bbox' \[1, 2, 3, nan\]"),
    "infinite": (_annotation(bbox=[float("-inf"), 2, 3, 4]), r"annotations\[2\] has 'bbox' \[-inf"),
    "huge box": (_annotation(bbox=[10**400, 2, 3, 4]), r"annotations\[2\] has 'bbox'"),
    "negative size": (_annotation(bbox=[1, 2, -3, 4]), r"annotations\[2\] has 'bbox' .* no negative size"),
    "area not a number": (_annotation(area=float("nan")), r"annotations\[2\] has 'area' nan"),
    "side not a number": (_image(width=float("nan")), r"images\[1\] has 'width' nan"),
    "infinite area": (_annotation(area=float("inf")), r"annotations\[2\] has 'area' inf"),
    "crowd of two": (_annotation(iscrowd=2), r"annotations\[2\] has 'iscrowd' 2, which should be 0 or 1"),
    "crowd as text": (_annotation(iscrowd="1"), r"annotations\[2\] has 'iscrowd' '1'"),
    "ignored by half": (_annotation(ignore=0.5), r"annotations\[2\] has 'ignore' 0\.5"),
    "a list as annotation": (lambda made: made["annotations"].insert(0, []), r"annotations\[0\] is \[\], not a JSON"),
}


@pytest.mark.parametrize(("change", "complaint"), REFUSED.values(), ids=REFUSED)
def test_refused(change: Callable[[dict[str, Any]], object], complaint: str, directory: Path) -> None:
    made = coco_files.content()
    change(made)
    file = directory / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(made))
    with pytest.raises(UserError, match=complaint) as error:
        read_coco(directory, "train")
    assert "\n" not in str(error.value) and len(str(error.value)) < 700
    assert "lacks" in complaint or str(file) in str(error.value)


@pytest.mark.parametrize("content", [b"{", b"", b"[" * 100_000, b"\xff\xfe\xfa", b"7", b"[]", b"1" * 5000])
def test_no_annotations_in_the_file(content: bytes, directory: Path) -> None:
    (directory / "annotations" / "instances_train2017.json").write_bytes(content)
    with pytest.raises(UserError, match=r"instances_train2017\.json (is not JSON|has no list 'images')"):
        read_coco(directory, "train")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no annotations/instances_val2017\.json: put annotations at"):
        read_coco(tmp_path / "none", "val")
    coco_files.write(tmp_path, coco_files.content())
    (tmp_path / "train2017").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"train2017 is not a directory"):
        read_coco(tmp_path, "train")


def test_an_image_that_goes_away_later(directory: Path) -> None:
    source = read_coco(directory, "train")
    (directory / "train2017" / "portrait.png").unlink()
    with pytest.raises(UserError, match=r"portrait\.png cannot be read \(No such file"):
        source[1]
