"""Images annotated in COCO's format: a JSON file of all annotations and a folder of images."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from cdnv2_jax.bounded_reading import read_json
from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.files import progress_bar
from cdnv2_jax.data.sources.image_files import read_image_file
from cdnv2_jax.detection.data.annotations import AnnotationArrays, DetectionSource, Id
from cdnv2_jax.detection.data.coco_layout import LAYOUT, find_annotations, find_images
from cdnv2_jax.detection.data.coco_values import PIXELS, area, box, flag, identity, is_text, shown, whole_number, wrong
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.paths import is_remote

MOST_BYTES = 4 << 30  # of a JSON file; instances_train2017.json has 0.4 GiB, and takes eight times that in memory
DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class CocoSource(DetectionSource):
    """The images of one split with their boxes; classes are sorted by category id."""

    def __init__(
        self,
        folder: Path,
        file_names: Sequence[str],
        arrays: AnnotationArrays,
        class_names: Sequence[str],
        category_ids: Sequence[Id],
        remarks: Sequence[str] = (),
    ):
        super().__init__(arrays, class_names, category_ids, remarks)
        self._folder, self.in_bucket = str(folder), is_remote(folder)
        # One string and the end of each name: a fraction of the memory and of the pickled size of a list.
        names = [os.fsencode(name) for name in file_names]
        self._names, self._ends = b"".join(names), np.cumsum([0, *map(len, names)])

    def encoded(self, index: int) -> tuple[bytes, str]:
        path = os.path.join(self._folder, self._file(index))
        return read_image_file(path), path

    def image_names(self) -> list[str]:
        return [self._file(index) for index in range(len(self._ends) - 1)]

    def _file(self, index: int) -> str:
        index = range(len(self._ends) - 1)[index]  # a negative index would select another file
        return os.fsdecode(self._names[self._ends[index] : self._ends[index + 1]])


def read_coco(directory: Path, split: Split, annotations: str = "") -> CocoSource:
    """Open the images of a split in the order of its JSON file; see `coco_layout` for where that file may be.

    A file of held-out images may lack "annotations", such as COCO's image_info_test-dev2017.json.

    Args:
      directory: the data set.
      split: "train" or "val".
      annotations: path of the JSON file, absolute or from the directory; "" to look for it.

    Raises:
      UserError: files are missing, or an annotation is invalid (all of them are checked); the message names the file
        and the item.
    """
    file, remarks = find_annotations(directory, split, annotations)
    with progress_bar(f"reading {file}", 3) as advance:
        content = _content(file, split)
        advance(1)
        classes, dropped = _without_parent(_categories(content["categories"], f"{file}: categories"), content)
        _refuse_same_names(classes, f"{file}: categories")
        images = _images(content["images"], f"{file}: images")
        advance(1)
        labels = {one.key: label for label, one in enumerate(classes)}
        arrays, repeated = _arrays(content["annotations"], f"{file}: annotations", images, labels)
        advance(1)
    folder = find_images(directory, file, images.names)
    return CocoSource(
        folder,
        images.names,
        arrays,
        [c.name for c in classes],
        [c.id for c in classes],
        [*remarks, *dropped, *repeated],
    )


def _content(file: Path, split: Split) -> Mapping[str, Sequence[Any]]:
    try:
        content = read_json(file, MOST_BYTES)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{file} is not JSON of that kind ({one_line(error)}): copy it again") from error
    if split == "val":
        content.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise UserError(f"{file} has no list {key!r}, as COCO's instances have: {LAYOUT}")
    return content


class Category(NamedTuple):
    """A category: its id to compare with others and as the file has it, its name, and the group that it is in."""

    key: Id
    id: Id
    name: str
    parent: Any


def _categories(items: Sequence[Any], where: str) -> list[Category]:
    """Return the categories in ascending order of their ids, numbers before text."""
    found: dict[Id, Category] = {}
    for number, item in enumerate(items):
        place = f"{where}[{number}]"
        (key, written), name = identity(item, "id", place), item.get("name")
        if not is_text(name):
            raise wrong(place, "name", name, "a string")
        if key in found:
            raise UserError(f"{place} has the same id as one before, {written}: each category needs its own")
        found[key] = Category(key, written, name, item.get("supercategory"))
    if not found:
        raise UserError(f"{where} is empty: there is nothing to detect")
    return sorted(found.values(), key=lambda one: (isinstance(one.key, str), one.key))


def _without_parent(
    categories: list[Category], content: Mapping[str, Sequence[Any]]
) -> tuple[list[Category], list[str]]:
    """Drop the category 0 that Roboflow adds, the parent of all others, which no object has; return remarks on it."""
    first, *others = categories
    parent = first.key == 0 and others and all(one.parent == first.name for one in others)
    used = any(isinstance(item, dict) and item.get("category_id") in (0, "0") for item in content["annotations"])
    if not parent or used:
        return categories, []
    return others, [f"category 0, {first.name!r}, is no class: it has no objects and is the parent of all others"]


def _refuse_same_names(categories: list[Category], where: str) -> None:
    """Raise UserError if two categories have the same name, by which those of data sets and checkpoints are matched."""
    seen: dict[str, Id] = {}
    for one in categories:
        if one.name in seen:
            raise UserError(
                f"{where} {seen[one.name]} and {one.id} are both named {shown(one.name)}: rename one of them"
            )
        seen[one.name] = one.id


class Images(NamedTuple):
    """Images in the order of the file: id → position, ids as the file has them, sizes int32 [n, 2], file names."""

    positions: Mapping[Id, int]
    ids: Sequence[Id]
    sizes: np.ndarray
    names: Sequence[str]


def _images(items: Sequence[Any], where: str) -> Images:
    found: dict[Id, tuple[Id, tuple[int, int], str]] = {}
    for number, item in enumerate(items):
        place = f"{where}[{number}]"
        (key, written), name = identity(item, "id", place), item.get("file_name")
        height, width = (whole_number(item, side, place, PIXELS) for side in ("height", "width"))
        if key in found:
            raise UserError(f"{place} has the same id as one before, {written}: each image needs its own")
        found[key] = written, (height, width), _file_name(name, place)
    if not found:
        raise UserError(f"{where} is empty: there is nothing to read")
    ids, sizes, names = zip(*found.values(), strict=True)
    return Images({key: position for position, key in enumerate(found)}, ids, np.array(sizes, np.int32), names)


def _file_name(name: Any, place: str) -> str:
    """Return the path of an image from its folder; Windows' separators become slashes."""
    if not isinstance(name, str) or not name or "\0" in name or not _is_encodable(name):
        raise wrong(place, "file_name", name, "the name of a file")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or DRIVE.match(name):
        raise UserError(f"{place} names a file outside the image folder, {shown(name)}: use a path inside it")
    return str(path)


def _is_encodable(name: str) -> bool:
    """Return whether a file can have the name; JSON can hold halves of characters."""
    try:
        return bool(os.fsencode(name))
    except UnicodeEncodeError:
        return False


def _arrays(
    items: Sequence[Any], where: str, images: Images, labels: Mapping[Id, int]
) -> tuple[AnnotationArrays, list[str]]:
    """Check every annotation, and group them by image, each group in the order of the file; return remarks, too."""
    ids, rows = [], []
    for number, item in enumerate(items):
        place = f"{where}[{number}]"
        (image, shown_image), (category, shown_category) = (
            identity(item, key, place) for key in ("image_id", "category_id")
        )
        if image not in images.positions:
            raise UserError(f"{place} refers to image {shown_image}, which is not among the images: fix or remove it")
        if category not in labels:
            raise UserError(
                f"{place} refers to category {shown_category}, which is not a known category: fix or remove it"
            )
        ids.append(None if item.get("id") is None else identity(item, "id", place)[0])
        flags = flag(item, "iscrowd", place), flag(item, "ignore", place)
        rows.append((images.positions[image], labels[category], box(item, place), area(item, place), *flags))
    owners, label, boxes, areas, crowd, ignored = zip(*rows, strict=True) if rows else [()] * 6
    owner = np.array(owners, np.int64)
    order = np.argsort(owner, kind="stable")
    numbers, repeated = _annotation_ids(ids)
    arrays = AnnotationArrays(
        image_ids=np.array(images.ids, object if any(isinstance(one, str) for one in images.ids) else np.int64),
        sizes=images.sizes,
        ends=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(images.ids)))]).astype(np.int64),
        ids=numbers[order],
        labels=np.array(label, np.int32)[order],
        boxes=np.array(boxes, np.float64).reshape(-1, 4)[order],
        areas=np.array(areas, np.float64)[order],
        crowd=np.array(crowd, bool)[order],
        ignored=np.array(ignored, bool)[order],
    )
    return arrays, repeated


def _annotation_ids(ids: Sequence[Id | None]) -> tuple[np.ndarray, list[str]]:
    """Return ids, int64 [m], and remarks: those of the file or, if they are not distinct numbers, 1, 2, 3, …"""
    known = [one for one in ids if one is not None]
    repeated = len(known) - len(set(known))
    remarks = (
        [f"annotation ids that are used before, as in merged files: {repeated}; all boxes count"] if repeated else []
    )
    if repeated or not all(isinstance(one, int) for one in ids):
        return np.arange(1, len(ids) + 1), remarks
    return np.array(ids, np.int64), remarks
