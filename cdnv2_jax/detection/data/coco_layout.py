"""Where data sets in COCO's format keep their annotations and images: COCO's own folders, Roboflow's and similar."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cdnv2_jax.data.source import Split
from cdnv2_jax.data.storage import names_in
from cdnv2_jax.detection.data.coco_values import shown
from cdnv2_jax.errors import UserError, shorten
from cdnv2_jax.paths import as_path, is_remote

LAYOUT = (
    "put annotations at DIRECTORY/annotations/instances_train2017.json and images at DIRECTORY/train2017/*.jpg, "
    "likewise for val2017 (or train and val without a year), or name the JSON files in config.data.train_annotations "
    "and config.data.val_annotations"
)
NAMES: Mapping[Split, Sequence[str]] = {
    "train": ("train2017", "train"),
    "val": ("val2017", "val", "valid", "test2017", "test"),
}
FILES = ("annotations/instances_{}.json", "{}/_annotations.coco.json", "annotations/{}.json")
"""Annotations of a split of that name: COCO's, Roboflow's, and a common short form."""

NOT_OF_A_FOLDER = re.compile(r"^.*_|-dev(?=\d*$)")
"""Parts of a JSON file's name that the folder of its images lacks: image_info_test-dev2017 is about test2017."""


def find_annotations(directory: Path, split: Split, given: str = "") -> tuple[Path, Sequence[str]]:
    """Return the JSON file of a split, and remarks on the choice; UserError if there is none.

    Args:
      directory: the data set.
      split: "train" or "val"; without held-out images of that name, "valid" and "test" count as "val".
      given: path of the file, absolute, in a bucket or from the directory; "" to look for it.
    """
    if given:
        file = as_path(given) if is_remote(as_path(given)) else directory / given
        if not file.is_file():
            raise UserError(f"config.data.{split}_annotations: {file} is not a file: {LAYOUT}")
        return file, ()
    for name in NAMES[split]:
        for pattern in FILES:
            file = directory / pattern.format(name)
            if file.is_file():
                held_out = split == "val" and name.startswith("test")
                return file, [f"there is no val: {name} is the held-out images"] if held_out else ()
    raise UserError(f"{directory} has no annotations/instances_{split}2017.json: {LAYOUT}")


def find_images(directory: Path, file: Path, names: Sequence[str]) -> Path:
    """Return the folder in which all images of a JSON file are.

    Args:
      directory: the data set.
      file: its JSON file.
      names: paths of the images, from the folder to be found.

    Raises:
      UserError: no folder has all of them.
    """
    best, fewest = directory, names
    for folder in _folders(directory, file):
        missing = _missing(folder, names)
        if not missing:
            return folder
        if fewest is names or len(missing) < len(fewest):
            best, fewest = folder, missing
    expected = directory / _folder_name(file)
    if len(fewest) == len(names) and not expected.is_dir():
        raise UserError(f"{expected} is not a directory, but {file} is there: {LAYOUT}")
    listed = shorten([shown(name) for name in fewest], 2)
    raise UserError(f"{best} lacks {len(fewest)} of {len(names)} images, {listed}: copy it again")


def _folders(directory: Path, file: Path) -> Iterator[Path]:
    """Yield the existing folders in which to look, the most usual one first."""
    name, beside = _folder_name(file), file.parent
    there = (directory / name, directory / "images" / name, beside, directory / "images", directory, beside / "images")
    yield from (folder for folder in dict.fromkeys(there) if folder.is_dir())


def _folder_name(file: Path) -> str:
    return file.parent.name if file.name.startswith("_annotations") else NOT_OF_A_FOLDER.sub("", file.stem)


def _missing(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the images that are not in a folder; list its folders once instead of looking for each file."""
    listings: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, last = os.path.split(name)
        if parent not in listings:
            listings[parent] = _listing(folder / parent)
        if last not in listings[parent]:
            missing.append(name)
    return missing


def _listing(folder: Path) -> set[str]:
    try:
        return names_in(folder)
    except OSError:  # no such folder, or a name that the file system cannot have
        return set()
