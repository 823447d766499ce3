"""Image files in one folder per class."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cdnv2_jax.data.fingerprint import fingerprint
from cdnv2_jax.data.source import Sample, Source, Split
from cdnv2_jax.data.sources.class_folders import LAYOUT, Skipped, has_classes, list_classes, list_files, printable
from cdnv2_jax.data.sources.held_out import share_of
from cdnv2_jax.data.sources.split_names import find_folders
from cdnv2_jax.errors import UserError, shorten

HOLD_OUT = "set config.data.held_out_fraction=0.1 (prepare: --held-out-fraction) to hold out a tenth of every class"


class ImageFolderSource(Source[Sample]):
    """Image files in a folder per class, or in a folder for all; an image is read on access.

    Attributes:
      class_names: names of the classes.
      remarks: files that were skipped, and which folders are used.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        folders: Sequence[str],
        labels: np.ndarray,
        names: Sequence[bytes],
        sizes: np.ndarray,
        remarks: Sequence[str] = (),
    ):
        """Create a source of the files FOLDER/FOLDERS[label]/NAME.

        Args:
          folder: the folder of all.
          class_names: names of the classes.
          folders: for each class its folder in `folder`, "" for `folder` itself.
          labels: integers [n].
          names: path of each image in its class's folder.
          sizes: integers [n], in bytes; only for the fingerprint.
          remarks: what was skipped or decided.
        """
        self.class_names, self.remarks = list(class_names), list(remarks)
        self._folder, self._folders = str(folder), list(folders)
        self._labels = labels.astype(np.int32)
        # One string and the end of each name: a tenth of the memory and of the pickled size of a list.
        self._names = b"".join(names)
        self._ends = np.cumsum([0, *map(len, names)])
        self._fingerprint = fingerprint(self.class_names, self._labels, self._names, self._ends, sizes)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; raise UserError if its file cannot be read."""
        label = int(self._labels[index])
        # There is one more end than there are images: a negative index would select another file.
        index = range(len(self))[index]
        file = os.fsdecode(self._names[self._ends[index] : self._ends[index + 1]])
        path = os.path.join(self._folder, self._folders[label], file)
        return Sample(read_image_file(path), label, printable(path))

    def fingerprint(self) -> str:
        return self._fingerprint


def read_image_file(path: str) -> bytes:
    """Return the bytes of a file; raise UserError if it cannot be read."""
    try:
        with open(path, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read ({error.strerror or error}): fix or remove it") from error


def read_image_folder(directory: Path, split: Split, held_out_fraction: float = 0.0) -> ImageFolderSource:
    """Open the folder of the split in DIRECTORY; without such folders, a share of DIRECTORY/CLASS.

    Labels are indices in the sorted names of the training classes, if there are any, even if the held-out folder lacks
    some of them.

    Args:
      directory: parent of train/CLASS and val/CLASS (or of other names, see `find_folders`), or of CLASS.
      split: the split.
      held_out_fraction: share to hold out of every class where there is no folder of held-out images; 0 to use a
        directory without splits as a whole, for evaluation.

    Raises:
      UserError: a folder is missing, a class has no images, or the training folder lacks a held-out class.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory: {LAYOUT}")
    train, val, remarks = find_folders(directory)
    if train and val:
        return _read_split(train, val, split, remarks)
    if val:
        if split == "train":
            raise UserError(f"{directory} has {val.name}/ but no class folders in train/: {LAYOUT}")
        return _read(val, _classes(val), remarks=remarks)
    if train and not held_out_fraction and split == "val":
        raise UserError(f"{directory} has {train.name}/ but no class folders in val/: {HOLD_OUT}, or {LAYOUT}")
    if not train and not held_out_fraction and split == "train":
        raise UserError(f"{directory / 'train'} holds no class folders: {_advice(directory)}{LAYOUT}")
    if not train and not held_out_fraction:
        remarks = [*remarks, "no folders train and val: all images are held out"]
    whole = train or directory
    return _read(whole, _classes(whole), split, held_out_fraction, remarks=remarks)


def _read_split(train: Path, val: Path, split: Split, remarks: Sequence[str]) -> ImageFolderSource:
    known, held_out = _classes(train), _classes(val)
    if split == "train":
        return _read(train, known, remarks=remarks)
    if unknown := sorted(set(held_out) - set(known)):
        raise UserError(f"{val} has classes that {train} lacks: {shorten(unknown)}: use the same folder names in both")
    return _read(val, known, remarks=remarks)


def _advice(directory: Path) -> str:
    return f"{HOLD_OUT}, or " if has_classes(directory) else ""


def _classes(folder: Path) -> list[str]:
    return list_classes(folder, Skipped())


def _read(
    folder: Path, classes: Sequence[str], split: Split = "train", fraction: float = 0.0, *, remarks: Sequence[str]
) -> ImageFolderSource:
    """Read the classes of a folder: all images or, with a fraction, a split's share of them."""
    found = list_files(folder, classes)
    labels, names, sizes, remarks = found.labels, found.names, found.sizes, [*remarks, *found.remarks]
    if fraction:
        full = [os.fsencode(f"{classes[label]}/") + name for label, name in zip(labels, names, strict=True)]
        chosen, shares = share_of(split, labels, full, fraction, str(folder))
        labels, names, sizes = labels[chosen], [names[index] for index in chosen], sizes[chosen]
        remarks = [*shares, *remarks]
    return ImageFolderSource(folder, list(map(printable, classes)), classes, labels, names, sizes, remarks)
