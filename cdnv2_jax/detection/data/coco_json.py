"""Images annotated in COCO's format: a JSON file of all annotations and a folder of images."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.files import progress_bar
from cdnv2_jax.data.sources.image_files import read_image_file
from cdnv2_jax.detection.data.annotations import AnnotationArrays, DetectionSource
from cdnv2_jax.errors import UserError, one_line, shorten

LAYOUT = (
    "put annotations at DIRECTORY/annotations/instances_train2017.json and images at DIRECTORY/train2017/*.jpg, "
    "likewise for val2017 (or train and val without a year)"
)
YEARS = ("2017", "")
LARGEST = 1e9
"""Limit on coordinates, areas and sides, pixels."""
IDS = range(-(2**63), 2**63)


class CocoSource(DetectionSource):
    """The images of one split with their boxes; classes are sorted by category id."""

    def __init__(
        self,
        folder: Path,
        file_names: Sequence[str],
        arrays: AnnotationArrays,
        class_names: Sequence[str],
        category_ids: Sequence[int],
    ):
        super().__init__(arrays, class_names, category_ids)
        self._folder = str(folder)
        # Fixed-width strings take a fraction of a list's memory and of its pickled size.
        self._files = np.array([os.fsencode(name) for name in file_names], np.bytes_)

    def encoded(self, index: int) -> tuple[bytes, str]:
        path = os.path.join(self._folder, os.fsdecode(self._files[index]))
        return read_image_file(path), path


def read_coco(directory: Path, split: Split) -> CocoSource:
    """Open the images of DIRECTORY/<split>2017 or, without annotations for it, DIRECTORY/<split>, in the file's order.

    Raises:
      UserError: files are missing, or an annotation is invalid (all of them are checked); the message names the file
        and the item.
    """
    file, folder = _find(directory, split)
    with progress_bar(f"reading {file}", 3) as advance:
        content = _content(file)
        advance(1)
        category_ids, class_names = _categories(content["categories"], f"{file}: categories")
        image_ids, sizes, names = _images(content["images"], f"{file}: images")
        advance(1)
        labels = {number: label for label, number in enumerate(category_ids)}
        arrays = _arrays(content["annotations"], f"{file}: annotations", image_ids, sizes, labels)
        advance(1)
    _refuse_missing(folder, names)
    return CocoSource(folder, names, arrays, class_names, category_ids)


def _find(directory: Path, split: Split) -> tuple[Path, Path]:
    for year in YEARS:
        file, folder = directory / "annotations" / f"instances_{split}{year}.json", directory / f"{split}{year}"
        if file.is_file():
            if not folder.is_dir():
                raise UserError(f"{folder} is not a directory, but {file} is there: {LAYOUT}")
            return file, folder
    raise UserError(f"{directory} has no annotations/instances_{split}2017.json: {LAYOUT}")


def _content(file: Path) -> Mapping[str, Sequence[Any]]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}): {LAYOUT}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON ({one_line(error)}): copy it again") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{file} has no list {key!r}, as COCO's instances have: {LAYOUT}")
    return content


def _categories(items: Sequence[Any], where: str) -> tuple[list[int], list[str]]:
    """Return ids in ascending order, and their names."""
    names: dict[int, str] = {}
    for number, item in enumerate(items):
        place = f"{where}[{number}]"
        identity, name = _whole(item, "id", place), item.get("name")
        if not isinstance(name, str) or not name.strip():
            raise _wrong(place, "name", name, "a string")
        if identity in names:
            raise UserError(f"{place} has the same id as one before, {identity}: each category needs its own")
        names[identity] = name
    if not names:
        raise UserError(f"{where} is empty: there is nothing to detect")
    return sorted(names), [names[identity] for identity in sorted(names)]


def _images(items: Sequence[Any], where: str) -> tuple[list[int], np.ndarray, list[str]]:
    """Return ids, sizes int32 [n, 2] and file names, in the order of the file."""
    found: dict[int, tuple[int, int, str]] = {}
    for number, item in enumerate(items):
        place = f"{where}[{number}]"
        identity, name = _whole(item, "id", place), item.get("file_name")
        height, width = (_whole(item, key, place, range(1, int(LARGEST))) for key in ("height", "width"))
        if not isinstance(name, str) or not name or "\0" in name:
            raise _wrong(place, "file_name", name, "the name of a file")
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"{place} names a file outside the image folder, {_shown(name)}: use a path inside it")
        if identity in found:
            raise UserError(f"{place} has the same id as one before, {identity}: each image needs its own")
        found[identity] = (height, width, name)
    if not found:
        raise UserError(f"{where} is empty: there is nothing to read")
    sizes = np.array([(height, width) for height, width, _ in found.values()], np.int32)
    return list(found), sizes, [name for _, _, name in found.values()]


def _arrays(
    items: Sequence[Any], where: str, image_ids: Sequence[int], sizes: np.ndarray, labels: Mapping[int, int]
) -> AnnotationArrays:
    """Check every annotation, and group them by image, each group in the order of the file."""
    positions = {identity: position for position, identity in enumerate(image_ids)}
    rows: dict[int, tuple[int, int, tuple[float, ...], float, bool, bool]] = {}
    for number, item in enumerate(items):
        place = f"{where}[{number}]"
        identity, image, category = (_whole(item, key, place) for key in ("id", "image_id", "category_id"))
        if image not in positions:
            raise UserError(f"{place} refers to image {image}, which is not among the images: fix or remove it")
        if category not in labels:
            raise UserError(f"{place} refers to category {category}, which is not a known category: fix or remove it")
        if identity in rows:
            raise UserError(f"{place} has the same id as one before, {identity}: each annotation needs its own")
        flags = _flag(item, "iscrowd", place), _flag(item, "ignore", place)
        rows[identity] = positions[image], labels[category], _box(item, place), _area(item, place), *flags
    owners, label, boxes, areas, crowd, ignored = zip(*rows.values(), strict=True) if rows else [()] * 6
    owner = np.array(owners, np.int64)
    order = np.argsort(owner, kind="stable")
    return AnnotationArrays(
        image_ids=np.array(image_ids, np.int64),
        sizes=sizes,
        ends=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(image_ids)))]).astype(np.int64),
        ids=np.array(list(rows), np.int64)[order],
        labels=np.array(label, np.int32)[order],
        boxes=np.array(boxes, np.float64).reshape(-1, 4)[order],
        areas=np.array(areas, np.float64)[order],
        crowd=np.array(crowd, bool)[order],
        ignored=np.array(ignored, bool)[order],
    )


def _whole(item: Any, key: str, place: str, allowed: range = IDS) -> int:
    if not isinstance(item, dict):
        raise UserError(f"{place} is {_shown(item)}, not a JSON object: copy the file again")
    value = item.get(key)
    if type(value) is not int or value not in allowed:  # `type`, because True is an int too
        raise _wrong(place, key, value, "a whole number" if allowed is IDS else "a whole number of pixels above 0")
    return value


def _box(item: Mapping[str, Any], place: str) -> tuple[float, ...]:
    box: Any = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise _wrong(place, "bbox", box, "four numbers: x, y, width, height")
    if box[2] < 0 or box[3] < 0:
        raise _wrong(place, "bbox", box, "x, y, width, height with no negative size")
    return tuple(box)


def _area(item: Mapping[str, Any], place: str) -> float:
    area: Any = item.get("area")
    if not _is_number(area):
        raise _wrong(place, "area", area, "a number of pixels")
    return area


def _flag(item: Mapping[str, Any], key: str, place: str) -> bool:
    """Return a flag that may be missing: official files have `iscrowd` but no `ignore`; others may lack either."""
    value = item.get(key, 0)
    if not isinstance(value, int) or value not in (0, 1):
        raise _wrong(place, key, value, "0 or 1")
    return bool(value)


def _is_number(value: Any) -> bool:
    """Return whether a value is a number within the limits; this excludes NaN and infinities, which JSON may hold."""
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST


def _wrong(place: str, key: str, value: Any, wanted: str) -> UserError:
    if value is None:
        return UserError(f"{place} has no {key!r}, which should be {wanted}: fix or remove it")
    return UserError(f"{place} has {key!r} {_shown(value)}, which should be {wanted}: fix or remove it")


def _shown(value: Any) -> str:
    if isinstance(value, int) and value not in IDS:
        return "a huge number"  # Python refuses to print the largest ones
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _refuse_missing(folder: Path, names: Sequence[str]) -> None:
    """Raise UserError if an image is missing; list the folder once instead of looking for each file."""
    present = set(os.listdir(folder))
    missing = [_shown(name) for name in names if name not in present and not _is_file(folder / name)]
    if missing:
        raise UserError(f"{folder} lacks {len(missing)} of {len(names)} images, {shorten(missing, 2)}: copy it again")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long or invalid on the file system
        return False
