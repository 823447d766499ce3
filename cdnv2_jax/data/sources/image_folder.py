"""A folder per class with image files in it."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cdnv2_jax.data.source import Sample, Source, Split
from cdnv2_jax.errors import UserError, shorten

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
LAYOUT = "put images at DIRECTORY/train/CLASS/*.jpg and DIRECTORY/val/CLASS/*.jpg"


class ImageFolderSource(Source[Sample]):
    """The files of FOLDER/CLASS/*, classes and files sorted by name; an image is read on access.

    Attributes:
      class_names: names of the class folders.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], files: Sequence[tuple[int, str]]):
        """Takes (label, file name) of every image."""
        self.class_names = list(class_names)
        self._folder = str(folder)
        self._labels = np.array([label for label, _ in files], np.int32)
        # One string and where each name ends: a tenth of the memory, and of the bytes to pickle, of a list.
        encoded = [os.fsencode(name) for _, name in files]
        self._names = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        """UserError when the file cannot be read."""
        label = int(self._labels[index])
        # The number of ends is one more than that of images: a negative index would find another file.
        index = range(len(self))[index]
        file = os.fsdecode(self._names[self._ends[index] : self._ends[index + 1]])
        path = os.path.join(self._folder, self.class_names[label], file)
        return Sample(read_image_file(path), label, path)


def read_image_file(path: str) -> bytes:
    """Its bytes; UserError when it cannot be read."""
    try:
        with open(path, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): fix or remove it") from error


def read_image_folder(directory: Path, split: Split) -> ImageFolderSource:
    """The images of DIRECTORY/train or DIRECTORY/val; without these folders, DIRECTORY itself is the held-out split.

    Labels are positions in the sorted names of the training classes, if there are any: the same even when `val` lacks
    some of them.

    Raises:
      UserError: no such folder, a class without images, or a held-out class that `train` lacks.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory: {LAYOUT}")
    train, val = directory / "train", directory / "val"
    if split == "train":
        if not _has_classes(train):
            raise UserError(f"{train} holds no class folders: {LAYOUT}")
        return _read(train, _class_names(train))
    if not _has_classes(val):
        if _has_classes(train):
            raise UserError(f"{directory} has train/ but no class folders in val/: {LAYOUT}")
        return _read(directory, _class_names(directory))
    classes = _class_names(val)
    if not _has_classes(train):
        return _read(val, classes)
    known = _class_names(train)
    if unknown := sorted(set(classes) - set(known)):
        raise UserError(f"{val} has classes that {train} lacks: {shorten(unknown)}: use the same folder names in both")
    return _read(val, known)


def _has_classes(folder: Path) -> bool:
    # A folder of images called "train" may itself be a class, of vehicles for example.
    return folder.is_dir() and bool(_class_names(folder))


def _class_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        # Hidden folders (.ipynb_checkpoints) are never meant as classes.
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _read(folder: Path, classes: Sequence[str]) -> ImageFolderSource:
    found: list[tuple[int, str]] = []
    empty: list[str] = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue  # a training class without held-out images
        with os.scandir(folder / name) as entries:
            files = sorted(
                entry.name
                for entry in entries
                if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".") and entry.is_file()
            )
        if not files:
            empty.append(str(folder / name))
        found += [(label, file) for file in files]
    if not found:
        raise UserError(f"{folder} holds no images ({', '.join(EXTENSIONS)}) in folders of classes: {LAYOUT}")
    if empty:
        raise UserError(f"no images ({', '.join(EXTENSIONS)}) in {shorten(empty)}: fill or remove the folder")
    return ImageFolderSource(folder, classes, found)
