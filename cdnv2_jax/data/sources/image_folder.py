"""Image files in one folder per class."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cdnv2_jax.data.decode import EXTENSIONS
from cdnv2_jax.data.source import Sample, Source, Split
from cdnv2_jax.errors import UserError, shorten

LAYOUT = "put images at DIRECTORY/train/CLASS/*.jpg and DIRECTORY/val/CLASS/*.jpg"


class ImageFolderSource(Source[Sample]):
    """The files FOLDER/CLASS/*, with classes and files sorted by name; an image is read on access.

    Attributes:
      class_names: names of the class folders.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], files: Sequence[tuple[int, str]]):
        """Create a source from the (label, file name) of every image."""
        self.class_names = list(class_names)
        self._folder = str(folder)
        self._labels = np.array([label for label, _ in files], np.int32)
        # One string and the end of each name: a tenth of the memory and of the pickled size of a list.
        encoded = [os.fsencode(name) for _, name in files]
        self._names = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; raise UserError if its file cannot be read."""
        label = int(self._labels[index])
        # There is one more end than there are images: a negative index would select another file.
        index = range(len(self))[index]
        file = os.fsdecode(self._names[self._ends[index] : self._ends[index + 1]])
        path = os.path.join(self._folder, self.class_names[label], file)
        return Sample(read_image_file(path), label, path)


def read_image_file(path: str) -> bytes:
    """Return the bytes of a file; raise UserError if it cannot be read."""
    try:
        with open(path, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): fix or remove it") from error


def read_image_folder(directory: Path, split: Split) -> ImageFolderSource:
    """Open DIRECTORY/train or DIRECTORY/val; without these folders, DIRECTORY itself is the held-out split.

    Labels are indices in the sorted names of the training classes, if there are any, even if `val` lacks some of them.

    Raises:
      UserError: a folder is missing, a class has no images, or `train` lacks a held-out class.
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
        # Hidden folders (.ipynb_checkpoints) are not classes.
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
