"""The names that people give to the training and the held-out images."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.class_folders import has_classes, has_images, is_folder, is_hidden, printable
from cdnv2_jax.data.storage import Entry, scan
from cdnv2_jax.errors import UserError, shorten

NAMES: dict[Split, tuple[str, ...]] = {"train": ("train", "training"), "val": ("val", "validation", "valid", "test")}
"""In any case; the first that exists is used."""
LIKE_SPLITS = re.compile(
    r"(train|training|val|valid|validation|test)([ _-]?(set|data|images?))?[ _-]?\d*", re.IGNORECASE
)
"""Names that look like those of splits: a folder is sooner one of these than a class."""
UNSPLIT = ""
"""Stands for the name of what has no split."""
HOLD_OUT = "set config.data.held_out_fraction=0.1 (prepare: --held-out-fraction) to hold out a tenth of every class"

Part = TypeVar("Part")


class Chosen(NamedTuple):
    """Where the images of a split are.

    Attributes:
      name: its name in the data set, or UNSPLIT.
      fraction: share to hold out of the images of this name; 0 to use all.
      training: name of the training images if they are elsewhere, which determine the classes.
      remarks: what is not used.
    """

    name: str
    fraction: float
    training: str | None
    remarks: list[str]


def choose(names: Iterable[str], split: Split) -> str | None:
    """Return the name that is used for a split, or None."""
    wanted = NAMES[split]
    known = [name for name in names if name.lower() in wanted]
    return min(known, key=lambda name: (wanted.index(name.lower()), name), default=None)


def choose_split(names: Iterable[str], split: Split, fraction: float, where: Path, what: str, layout: str) -> Chosen:
    """Choose where the images of a split are.

    Args:
      names: names of splits that exist.
      split: the split to open.
      fraction: share to hold out if nothing else is held out.
      where: place of the data set, for messages.
      what: what has these names, for messages: "files".
      layout: what is expected there, for messages.

    Raises:
      UserError: the data set lacks the split.
    """
    lacks = f"{where} has no {what} called {' or '.join(NAMES[split])}"
    train, val = choose(names, "train"), choose(names, "val")
    used = [name for name in (train, val) if name]
    others = [name or f"other {what}" for name in sorted(set(names) - set(used))]
    remarks = [f"only {' and '.join(used)} used, not {shorten(others, 3)}"] if used and others else []
    if val:
        wanted = train if split == "train" else val
        if not wanted:
            raise UserError(f"{lacks}: {layout}")
        return Chosen(wanted, 0.0, train, remarks)
    if train:
        if split == "val" and not fraction:
            raise UserError(f"{lacks}: {layout}, or {HOLD_OUT}")
        return Chosen(train, fraction, None, remarks)
    if split == "train" and not fraction:
        raise UserError(f"{lacks}: {layout}, or {HOLD_OUT}")
    return Chosen(UNSPLIT, fraction, None, [] if fraction else ["no split: all images are held out"])


def find_folders(directory: Path) -> tuple[list[str], list[str]]:
    """Return the names of the folders of training and held-out images, and remarks.

    A folder with the name of a split is one only if it has class folders: it may itself be a class, of vehicles for
    example. It is a class too if it holds images, as folders beside it do, and the other split does not exist. If there
    is any split, a remark names the folders beside it.

    Raises:
      UserError: a folder is a link whose target is missing.
    """
    with scan(directory) as entries:
        folders = sorted(entry.name for entry in entries if _is_folder(entry) and not is_hidden(entry.name))
    splits = [name for name in folders if _is_split(name) and has_classes(directory / name)]
    beside = [name for name in folders if not _is_split(name)]
    if not (choose(splits, "train") and choose(splits, "val")) and any(has_images(directory / name) for name in beside):
        splits = [name for name in splits if not has_images(directory / name)]
    others = [f"{printable(name)}/" for name in folders if name not in splits]
    return splits, [f"not used: {shorten(others, 3)}"] if splits and others else []


def group_files(files: Iterable[Path], directory: Path) -> dict[str, list[Path]]:
    """Group files by the name of a split in their folder's name or their own ("photos-train-000001.tar"), sorted.

    If no file has one, all are UNSPLIT; otherwise the files without are left out.
    """
    groups: dict[str, list[Path]] = {}
    for file in sorted(files):
        parts = [*file.relative_to(directory).parent.parts, *re.split(r"[-_.]", file.name)]
        groups.setdefault(next((part.lower() for part in parts if _is_split(part)), UNSPLIT), []).append(file)
    return groups


def check_classes(classes: Iterable[str], directory: Path, layout: str) -> None:
    """Raise UserError if all classes of an unsplit directory are called like splits: "train" and "test1"."""
    names = list(classes)
    if names and all(map(LIKE_SPLITS.fullmatch, names)):
        listed = shorten([f"{name}/" for name in names])
        raise UserError(f"{directory} has {listed} without train/CLASS or val/CLASS: {layout}")


def _is_split(name: str) -> bool:
    return any(name.lower() in names for names in NAMES.values())


def _is_folder(entry: Entry) -> bool:
    if _is_split(entry.name) and entry.is_symlink() and not os.path.exists(entry.path):
        raise UserError(f"{entry.path} is a link whose target is missing: restore the target or remove it")
    return is_folder(entry)
