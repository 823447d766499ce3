"""Image files in one folder per class."""

import os
from collections.abc import Sequence
from pathlib import Path

from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.class_folders import LAYOUT, Skipped, list_classes, list_files, printable
from cdnv2_jax.data.sources.flat_imagenet import find_flat, read_flat
from cdnv2_jax.data.sources.held_out import share_of
from cdnv2_jax.data.sources.image_files import ImageFolderSource
from cdnv2_jax.data.sources.split_names import UNSPLIT, check_classes, choose, choose_split, find_folders
from cdnv2_jax.errors import UserError, shorten


def read_image_folder(directory: Path, split: Split, held_out_fraction: float = 0.0) -> ImageFolderSource:
    """Open the folder of the split in DIRECTORY; without such folders, a share of DIRECTORY/CLASS.

    Labels are indices in the sorted names of the training classes, if there are any, even if the held-out folder lacks
    some of them.

    Args:
      directory: parent of train/CLASS and val/CLASS (or of other names, see `NAMES`), or of CLASS.
      split: the split.
      held_out_fraction: share to hold out of every class where there is no folder of held-out images; 0 to use a
        directory without splits as a whole, for evaluation.

    Raises:
      UserError: a folder is missing, a class has no images, or the training folder lacks a held-out class.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory: {LAYOUT}")
    folders, remarks = find_folders(directory)
    train = choose(folders, "train")
    if not choose(folders, "val") and (flat := find_flat(directory)):
        if split == "val":
            return read_flat(flat, directory, _classes(directory / train) if train else None)
        held_out_fraction = 0.0  # there are held-out images
    chosen = choose_split(folders, split, held_out_fraction, directory, "folders of classes", LAYOUT)
    folder = directory / chosen.name
    classes = _classes(folder)
    if chosen.name == UNSPLIT:
        check_classes(classes, directory, LAYOUT)
    if chosen.training and split == "val":
        known = _classes(directory / chosen.training)
        if unknown := sorted(set(classes) - set(known)):
            advice = "use the same folder names in both"
            raise UserError(f"{folder} has classes that {chosen.training} lacks: {shorten(unknown)}: {advice}")
        classes = known
    return _read(folder, classes, split, chosen.fraction, [*chosen.remarks, *remarks])


def _classes(folder: Path) -> list[str]:
    return list_classes(folder, Skipped())


def _read(
    folder: Path, classes: Sequence[str], split: Split, fraction: float, remarks: Sequence[str]
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
