"""Image files in one folder per class."""

import os
from collections.abc import Sequence
from pathlib import Path

from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.class_folders import LAYOUT, Skipped, has_classes, list_classes, list_files, printable
from cdnv2_jax.data.sources.flat_imagenet import find_flat, read_flat
from cdnv2_jax.data.sources.held_out import share_of
from cdnv2_jax.data.sources.image_files import ImageFolderSource
from cdnv2_jax.data.sources.split_names import find_folders
from cdnv2_jax.errors import UserError, shorten

HOLD_OUT = "set config.data.held_out_fraction=0.1 (prepare: --held-out-fraction) to hold out a tenth of every class"


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
    flat = None if val else find_flat(directory)
    if flat and split == "val":
        return read_flat(flat, directory, _classes(train) if train else None)
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
    if flat:  # a split of its own
        held_out_fraction = 0.0
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
