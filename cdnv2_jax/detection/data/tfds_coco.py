"""COCO as stored by TensorFlow Datasets (coco/2017 and similar) in array_record files, read without TensorFlow.

Its records hold areas rounded down to whole numbers, and boxes as 32-bit fractions of the image's sides. Average
precision by size may therefore differ in the last digits from that of COCO's own files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax.data.decode import encoded_size
from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.files import Arrays, cached_arrays, progress_bar
from cdnv2_jax.data.sources.tf_example import decode_lists
from cdnv2_jax.data.sources.tfds import (
    FEATURES,
    INFO,
    ArrayRecords,
    find_data_set,
    open_split,
    read_class_names,
    read_json,
    understood,
)
from cdnv2_jax.data.storage import at_once
from cdnv2_jax.detection.data import coco_2017
from cdnv2_jax.detection.data.annotations import AnnotationArrays, DetectionSource
from cdnv2_jax.errors import UserError, one_line

LAYOUT = "give as DIRECTORY the folder that tfds wrote for coco/2017, with dataset_info.json in it"
LABELS_FILE = "objects-label.labels.txt"
UPRIGHT = "upright"
"""Key of the cached arrays: whether sizes and boxes are of images turned as their EXIF orientation says."""

SHAPES: Mapping[str, tuple[Any, tuple[int, ...]]] = {
    "image_ids": (np.int64, ()),
    "sizes": (np.int32, (2,)),
    "ends": (np.int64, ()),
    "ids": (np.int64, ()),
    "labels": (np.int32, ()),
    "boxes": (np.float64, (4,)),
    "areas": (np.float64, ()),
    "crowd": (bool, ()),
    "ignored": (bool, ()),
}
"""Dtype and shape of one item of each array of `AnnotationArrays`."""


class TfdsCocoSource(DetectionSource):
    """Encoded images and boxes from tf.train.Examples; category ids are COCO's for 80 classes, otherwise from 1."""

    def __init__(self, records: ArrayRecords, arrays: AnnotationArrays, class_names: Sequence[str], where: str):
        """`where` names the data set and split in messages."""
        super().__init__(arrays, class_names, category_ids(len(class_names)))
        self._records, self._where, self.in_bucket = records, where, records.in_bucket

    def encoded(self, index: int) -> tuple[bytes, str]:
        name = f"{self._where} image {index}"
        return _image(_lists(self._records[index], name), name), name


def read_tfds_coco(directory: Path, split: Split, *, upright: bool = True) -> TfdsCocoSource:
    """Open the records of "train" or, held out, of "validation".

    The first time, all records are read once for the images' sizes and boxes, which are cached beside the files.

    Args:
      directory: folder with dataset_info.json, or up to three levels above it: …/coco/2017/1.1.0, …/coco.
      split: "train" or "val".
      upright: take boxes to be fractions of the image as its EXIF orientation turns it, not as stored.

    Raises:
      UserError: no such data set or more than one, one without boxes, another file format, files missing or damaged.
    """
    found = find_data_set(directory)
    info, features = read_json(found / INFO), read_json(found / FEATURES)
    with understood(found, LAYOUT):
        names = read_class_names(found / LABELS_FILE, _classes(features))
        records, where = open_split(found, info, split)
    arrays = cached_arrays(
        records.files[0],
        lambda: _scan(records, len(names), where, upright),
        lambda arrays: _is_valid(arrays, len(records), len(names), upright),
    )
    return TfdsCocoSource(records, AnnotationArrays(**{key: arrays[key] for key in SHAPES}), names, where)


def category_ids(classes: int) -> list[int]:
    """Return the category id of each label: COCO's, with their gaps, for 80 classes, otherwise 1, 2, 3, …

    TensorFlow's data set keeps only their order.
    """
    return list(coco_2017.IDS) if classes == len(coco_2017.IDS) else list(range(1, classes + 1))


def _classes(features: Mapping[str, Any]) -> int:
    """Return the number of classes; UserError unless images have objects with boxes and labels."""
    objects = features["featuresDict"]["features"].get("objects", {})
    kinds = objects.get("sequence", {}).get("feature", {}).get("featuresDict", {}).get("features", {})
    if not {"area", "bbox", "id", "is_crowd", "label"} <= set(kinds):
        raise UserError(f"{FEATURES} has no objects with boxes as coco/2017 has them: {LAYOUT}")
    return int(kinds["label"]["classLabel"]["numClasses"])


def _scan(records: ArrayRecords, classes: int, where: str, upright: bool) -> Arrays:
    """Read the annotations of all records."""
    found = []
    with progress_bar(f"reading the boxes of {where}, {len(records)} images", len(records)) as advance:
        every = at_once(records.__getitem__, range(len(records)), in_bucket=records.in_bucket)
        for index, record in enumerate(every):
            name = f"{where} image {index}"
            found.append(_annotations(_lists(record, name), classes, name, upright))
            advance(1)
    ends = np.cumsum([0, *(len(one["ids"]) for one in found)])
    joined = {
        key: np.concatenate([one[key] for one in found]).astype(kind)
        for key, (kind, _) in SHAPES.items()
        if key != "ends"
    }
    return joined | {"ends": ends.astype(np.int64), UPRIGHT: np.array(upright)}


def _annotations(
    example: Mapping[str, list[bytes] | np.ndarray], classes: int, name: str, upright: bool
) -> dict[str, np.ndarray]:
    """Read the annotations of one image, as parts of the arrays of `AnnotationArrays`."""
    size = encoded_size(_image(example, name), name, upright=upright)
    image_id = _numbers(example, "image/id", 1, name)
    ids, areas, labels, crowd = (
        _numbers(example, f"objects/{key}", None, name) for key in ("id", "area", "label", "is_crowd")
    )
    corners = _numbers(example, "objects/bbox", 4 * len(ids), name).astype(np.float64).reshape(-1, 4)
    if not len(ids) == len(areas) == len(labels) == len(crowd):
        raise UserError(f"{name} has lists of different lengths for its objects: rebuild the data set")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(f"{name} has labels beyond its {classes} classes: rebuild the data set")
    if not (np.abs(corners) < 100).all() or (corners[:, :2] > corners[:, 2:]).any():  # refuses NaN, too
        raise UserError(f"{name} has a malformed box: rebuild the data set")
    low, high = corners[:, 1::-1] * size[::-1], corners[:, 3:1:-1] * size[::-1]  # from y, x to x, y
    return {
        "image_ids": image_id,
        "sizes": np.array([size]),
        "ids": ids,
        "labels": labels,
        "boxes": np.concatenate([low, high - low], axis=1),
        "areas": areas,
        "crowd": crowd.astype(bool),
        "ignored": np.zeros(len(ids), bool),
    }


def _lists(record: bytes, name: str) -> dict[str, list[bytes] | np.ndarray]:
    try:
        return decode_lists(record)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is damaged ({one_line(error)}): rebuild the data set") from error


def _image(example: Mapping[str, list[bytes] | np.ndarray], name: str) -> bytes:
    image = example.get("image")
    if not isinstance(image, list) or len(image) != 1:
        raise UserError(f"{name} has no 'image': rebuild the data set")
    return image[0]


def _numbers(example: Mapping[str, list[bytes] | np.ndarray], key: str, count: int | None, name: str) -> np.ndarray:
    """Return the numbers of a feature; an empty list may be of any kind or missing."""
    values = example.get(key, [])
    if isinstance(values, list) and not values:
        values = np.zeros(0, np.int64)
    if not isinstance(values, np.ndarray) or (count is not None and len(values) != count):
        raise UserError(f"{name} has no {key!r} as coco/2017 has it: rebuild the data set")
    return values


def _is_valid(arrays: Arrays, images: int, classes: int, upright: bool) -> bool:
    """Return whether cached arrays match each other and the records."""
    if not {*SHAPES, UPRIGHT} <= set(arrays) or not np.array_equal(arrays[UPRIGHT], upright):
        return False
    if any(arrays[key].dtype != kind or arrays[key].shape[1:] != shape for key, (kind, shape) in SHAPES.items()):
        return False
    ends, labels = arrays["ends"], arrays["labels"]
    if len(ends) != images + 1 or ends[0] != 0 or (np.diff(ends) < 0).any():
        return False
    per_image = ("image_ids", "sizes")
    lengths_fit = all(len(arrays[key]) == (images if key in per_image else ends[-1]) for key in SHAPES if key != "ends")
    return lengths_fit and bool((arrays["sizes"] > 0).all() and ((labels >= 0) & (labels < classes)).all())
