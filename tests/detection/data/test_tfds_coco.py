"""Records as TensorFlow Datasets' own features and protocol buffers write them."""

import json
import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from cdnv2_jax import UserError
from cdnv2_jax.detection.data.sources import open_source
from cdnv2_jax.detection.data.tfds_coco import category_ids, read_tfds_coco
from tests.data.photographs import encoded

PROTO: Any = import_module("tensorflow_datasets.proto")

# (id, height, width, objects); objects: (id, area, x, y, width, height, label, crowd), pixels.
Objects = list[tuple[int, int, float, float, float, float, int, bool]]
IMAGES: list[tuple[int, int, int, Objects]] = [
    (139, 40, 60, [(1, 80, 6, 8, 12, 10, 0, False), (2, 900, 30, 0, 30, 40, 2, False), (3, 5, 1, 1, 5, 5, 1, True)]),
    (285, 64, 48, [(4, 0, 4, 4, 8, 8, 1, False)]),
    (632, 50, 50, []),
]


def _record(number: int, height: int, width: int, objects: Objects, **changes: Any) -> bytes:
    example = PROTO.tf_example_pb2.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(encoded(np.full((height, width, 3), number % 256, np.uint8)))
    feature["image/filename"].bytes_list.value.append(b"x.jpg")
    feature["image/id"].int64_list.value.append(number)
    columns = list(zip(*objects, strict=True)) if objects else [()] * 8
    ids, areas, x, y, w, h, labels, crowd = (np.array(column) for column in columns)
    for key, values in {"id": ids, "area": areas, "label": labels, "is_crowd": crowd}.items():
        feature[f"objects/{key}"].int64_list.value.extend(changes.get(key, values.astype(int).tolist()))
    corners = np.stack([y / height, x / width, (y + h) / height, (x + w) / width], axis=1)
    feature["objects/bbox"].float_list.value.extend(changes.get("bbox", corners.ravel().tolist()))
    for key in changes.get("without", ()):
        del feature[key]
    return example.SerializeToString()


def _write(directory: Path, records: list[bytes]) -> Path:
    objects = {
        "area": np.int64,
        "bbox": tfds.features.BBoxFeature(),
        "id": np.int64,
        "is_crowd": np.bool_,
        "label": tfds.features.ClassLabel(names=["person", "car", "dog"]),
    }
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(objects),
        }
    )
    directory.mkdir(parents=True)
    features.save_config(str(directory))
    splits = [{"name": "train", "shardLengths": ["2", str(len(records) - 2)]}]
    (directory / "dataset_info.json").write_text(
        json.dumps({"name": "coco", "fileFormat": "array_record", "splits": splits})
    )
    for number, part in enumerate((records[:2], records[2:])):
        writer = ArrayRecordWriter(str(directory / f"coco-train.array_record-{number:05d}-of-00002"), "group_size:1")
        for record in part:
            writer.write(record)
        writer.close()
    return directory


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return _write(tmp_path / "coco" / "2017" / "1.1.0", [_record(*image) for image in IMAGES])


def test_boxes_in_pixels(made: Path) -> None:
    source = read_tfds_coco(made.parents[1], "train")
    assert list(source.class_names) == ["person", "car", "dog"]
    np.testing.assert_array_equal(source.sizes, [[40, 60], [64, 48], [50, 50]])
    sample = source[0]
    np.testing.assert_allclose(sample.boxes, [[6, 8, 18, 18], [30, 0, 60, 40]], rtol=1e-6)
    assert sample.labels.tolist() == [0, 2]
    assert (sample.height, sample.width, sample.image_id) == (40, 60, 139)
    assert isinstance(sample.image, bytes) and sample.image.startswith(b"\xff\xd8")
    assert source[1].boxes.shape == source[2].boxes.shape == (0, 4)
    assert source.arrays.training_indices().tolist() == [0]
    assert len(pickle.loads(pickle.dumps(source))) == 3


def test_annotations(made: Path) -> None:
    truth = read_tfds_coco(made, "train").annotations()
    assert [image["id"] for image in truth["images"]] == [139, 285, 632]
    assert truth["categories"] == [
        {"id": number, "name": name} for number, name in ((1, "person"), (2, "car"), (3, "dog"))
    ]
    expected = [(image, *one) for image, _, _, objects in IMAGES for one in objects]
    for annotation, (image, number, area, *box, label, crowd) in zip(truth["annotations"], expected, strict=True):
        assert (annotation["id"], annotation["image_id"], annotation["area"]) == (number, image, area)
        assert (annotation["category_id"], annotation["iscrowd"]) == (label + 1, int(crowd))
        np.testing.assert_allclose(annotation["bbox"], box, atol=1e-4)


def test_kept_beside_the_files(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_tfds_coco(made, "train").annotations()
    monkeypatch.setattr("cdnv2_jax.detection.data.tfds_coco._scan", None)
    assert read_tfds_coco(made, "train").annotations() == first


def test_what_was_kept_but_does_not_fit(made: Path) -> None:
    """Arrays of another kind or length are made anew."""
    first = read_tfds_coco(made, "train").annotations()
    (kept,) = made.glob("*.index.npz")
    with np.load(kept) as arrays:
        right = dict(arrays)
    for key, value in {
        "labels": right["labels"] + 3,
        "ends": right["ends"][::-1],
        "boxes": right["boxes"][:, :3],
        "sizes": right["sizes"] * 0,
        "ids": right["ids"].astype(float),
        "areas": right["areas"][:-1],
    }.items():
        np.savez(kept, **{**right, key: value})
        assert read_tfds_coco(made, "train").annotations() == first
    del right["upright"]  # of an earlier version, which did not turn photographs
    np.savez(kept, **{**right, "sizes": right["sizes"][:, ::-1]})
    assert read_tfds_coco(made, "train").annotations() == first


def test_photographs_are_turned(tmp_path: Path) -> None:
    """Boxes are fractions of the image as it is shown: the red object is in its box."""
    shown = np.full((40, 60, 3), 90, np.uint8)
    shown[8:18, 6:18] = (230, 20, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it to the right
    example = PROTO.tf_example_pb2.Example.FromString(_record(*IMAGES[0]))
    stored = np.ascontiguousarray(np.rot90(shown))
    example.features.feature["image"].bytes_list.value[0] = encoded(stored, exif=exif, quality=95)
    directory = _write(tmp_path / "made", [example.SerializeToString()] * 3)
    assert read_tfds_coco(directory, "train", upright=False).sizes[0].tolist() == [60, 40]
    source = read_tfds_coco(directory, "train")
    (x1, y1, x2, y2), pixels = source[0].boxes[0].round().astype(int), source[0].pixels()
    assert pixels.shape == shown.shape
    np.testing.assert_allclose(pixels[y1:y2, x1:x2].mean((0, 1)), (230, 20, 20), atol=20)  # but for what JPEG blurs


def test_remarks_and_fingerprint(made: Path) -> None:
    source = open_source("tfds", directory=str(made), split="train")
    assert source.remarks == [
        "1 image without objects: not trained on (config.data.empty_images=drop)",
        "1 image with crowds or unusable boxes alone: not trained on",
        "1 box marked as crowd or to be ignored: not trained on",
        "1 box outside the image, below one pixel or without area: not trained on",
    ]
    moved = made.rename(made.with_name("1.2.0"))
    assert read_tfds_coco(moved, "train").fingerprint() == source.fingerprint()
    other = [_record(285, *IMAGES[0][1:]), *(_record(*image) for image in IMAGES[1:])]
    assert read_tfds_coco(_write(made.with_name("other"), other), "train").fingerprint() != source.fingerprint()


def test_ids_of_coco() -> None:
    """From COCO's own list: 1 to 90 with ten gaps; toaster is 80, sink 81, the last, toothbrush, 90."""
    ids = category_ids(80)
    assert (len(ids), ids[:12], ids[-1]) == (80, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13], 90)
    assert (ids[70], ids[71], ids[60], ids[61]) == (80, 81, 67, 70)  # toaster, sink, dining table, toilet
    assert category_ids(3) == [1, 2, 3]


DAMAGED: dict[str, tuple[bytes, str]] = {
    "no example": (b"\xff" * 30, "image 2 is damaged"),
    "no image": (_record(*IMAGES[0], without=["image"]), "image 2 has no 'image'"),
    "no id": (_record(*IMAGES[0], without=["image/id"]), "image 2 has no 'image/id'"),
    "fewer labels": (_record(*IMAGES[0], label=[0, 1]), "image 2 has lists of different lengths"),
    "other label": (_record(*IMAGES[0], label=[0, 1, 3]), "image 2 has labels beyond its 3 classes"),
    "half a box": (_record(*IMAGES[0], bbox=[0.5] * 10), "image 2 has no 'objects/bbox'"),
    "not a number": (_record(*IMAGES[0], bbox=[float("nan")] * 12), "image 2 has a malformed box"),
    "a negative size": (_record(*IMAGES[0], bbox=[0.5, 0.5, 0.4, 0.6] * 3), "image 2 has a malformed box"),
}


@pytest.mark.parametrize(("record", "complaint"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_records(record: bytes, complaint: str, tmp_path: Path) -> None:
    records = [_record(*image) for image in IMAGES[:2]]
    with pytest.raises(UserError, match=complaint):
        read_tfds_coco(_write(tmp_path / "made", [*records, record]), "train")


def test_no_image_that_can_be_read(tmp_path: Path) -> None:
    example = PROTO.tf_example_pb2.Example.FromString(_record(*IMAGES[2]))
    example.features.feature["image"].bytes_list.value[0] = b"no image"
    records = [_record(*image) for image in IMAGES[:2]]
    with pytest.raises(UserError, match=r"train image 2 cannot be read as an image"):
        read_tfds_coco(_write(tmp_path / "made", [*records, example.SerializeToString()]), "train")


def test_other_data_sets(made: Path) -> None:
    with pytest.raises(UserError, match="has no split"):
        read_tfds_coco(made, "val")
    (made / "coco-train.array_record-00001-of-00002").unlink()
    with pytest.raises(UserError, match="lacks coco-train"):
        read_tfds_coco(made, "train")
    features = json.loads((made / "features.json").read_text())
    del features["featuresDict"]["features"]["objects"]
    (made / "features.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match=r"has no objects with boxes as coco/2017"):
        read_tfds_coco(made, "train")
    with pytest.raises(UserError, match=r"holds no dataset_info\.json"):
        read_tfds_coco(made / "none", "train")
