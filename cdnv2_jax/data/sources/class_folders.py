"""The image files below a class's folder, and what else lies there."""

import contextlib
import dataclasses
import errno
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cdnv2_jax.data.decode import EXTENSIONS
from cdnv2_jax.data.sources.files import progress_bar
from cdnv2_jax.data.storage import Entry, at_once, scan
from cdnv2_jax.errors import UserError, shorten
from cdnv2_jax.paths import as_path, is_remote
from cdnv2_jax.terminal import escaped

LAYOUT = "put images at DIRECTORY/train/CLASS/*.jpg and DIRECTORY/val/CLASS/*.jpg"

SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "lost+found")
"""Not classes, nor parts of one: archives made by macOS, thumbnails of Synology's disks, the root of a Linux disk."""

Identity = tuple[int, int] | str  # device and inode; the address in a bucket, which has no links
FOLDER, IGNORED = "folder", ""


class Skipped:
    """Counts files that are not read, by kind, and keeps the first names of each."""

    most = 3

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._names: dict[str, list[str]] = {}
        self._adding = threading.Lock()

    def add(self, kind: str, name: str) -> None:
        """Count one file; `kind` is a plural: "empty files"."""
        with self._adding:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            names = self._names.setdefault(kind, [])
            names.append(printable(name))
            names.sort()
            del names[self.most :]  # the first by name: the order of a listing differs between disks

    def remarks(self) -> list[str]:
        """Return a phrase for every kind: "2 dangling links skipped: a/1.jpg, b/2.jpg"."""
        return [
            f"{count:,} {kind if count > 1 else kind.removesuffix('s')} skipped: {', '.join(self._names[kind])}"
            + (", …" if count > self.most else "")
            for kind, count in sorted(self._counts.items())
        ]


@dataclasses.dataclass(frozen=True)
class Files:
    """The images of several classes, sorted by class.

    Attributes:
      labels: class of each, int64 [n].
      names: path in the folder of its class, of each.
      sizes: in bytes, int64 [n].
      remarks: what was skipped.
    """

    labels: np.ndarray
    names: Sequence[bytes]
    sizes: np.ndarray
    remarks: Sequence[str]


def list_files(folder: Path, classes: Sequence[str]) -> Files:
    """List the images FOLDER/CLASS/…; a class may lack a folder, but not have one without images.

    Raises:
      UserError: there are no images, or none in one of the folders.
    """
    skipped = Skipped()
    present = set(list_classes(folder, skipped))
    found = _list_each(folder, [name for name in classes if name in present], skipped)
    found = [found.get(name, ([], [])) for name in classes]
    counts = [len(names) for names, _ in found]
    why = "".join(f" ({remark})" for remark in skipped.remarks())
    if not sum(counts):
        raise UserError(f"{folder} holds no images ({', '.join(EXTENSIONS)}) in folders of classes: {LAYOUT}{why}")
    counted = zip(classes, counts, strict=True)
    if empty := [printable(str(folder / name)) for name, count in counted if name in present and not count]:
        raise UserError(f"no images ({', '.join(EXTENSIONS)}) in {shorten(empty)}: fill or remove the folder{why}")
    names = [os.fsencode(name) for each, _ in found for name in each]
    remarks = skipped.remarks()
    if nested := [name for name, (paths, _) in zip(classes, found, strict=True) if paths and "/" in paths[0]]:
        remarks.append(f"all images in folders below the class: {shorten(list(map(printable, nested)), Skipped.most)}")
    sizes = np.fromiter((size for _, each in found for size in each), np.int64, len(names))
    return Files(np.repeat(np.arange(len(classes)), counts), names, sizes, remarks)


def _list_each(folder: Path, classes: Sequence[str], skipped: Skipped) -> dict[str, tuple[list[str], list[int]]]:
    """Return what `list_images` does for each class; many folders of a bucket are listed at the same time."""
    in_bucket = is_remote(folder)
    found = {}
    with progress_bar(f"listing {folder}", len(classes)) if in_bucket else contextlib.nullcontext() as advance:
        listed = at_once(lambda name: list_images(folder, name, skipped), classes, in_bucket=in_bucket)
        for name, images in zip(classes, listed, strict=True):
            found[name] = images
            if advance is not None:
                advance(1)
    return found


def list_classes(folder: Path, skipped: Skipped) -> list[str]:
    """Return the sorted names of the class folders in `folder`, without hidden ones.

    Raises:
      UserError: one of them is a link whose target is missing.
    """
    classes = []
    with scan(folder) as entries:
        for entry in entries:
            if is_folder(entry):
                if not is_hidden(entry.name):
                    classes.append(entry.name)
            elif entry.name.lower().endswith(EXTENSIONS):
                skipped.add("classless images", entry.name)
            elif _is_dangling(entry):
                raise UserError(f"{entry.path} is a link whose target is missing: restore the target or remove it")
    return sorted(classes)


def has_classes(folder: Path) -> bool:
    """Whether there are class folders in `folder`."""
    return bool(list_classes(folder, Skipped()))


def has_images(folder: Path) -> bool:
    """Whether there is a file with the name of an image directly in `folder`."""
    with scan(folder) as entries:
        return any(entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".") for entry in entries)


def list_images(folder: Path, name: str, skipped: Skipped) -> tuple[list[str], list[int]]:
    """List the images in FOLDER/NAME and all folders below it, following links, in the order of torchvision.

    Hidden files, links without a target and empty files are skipped; a link to a folder above itself is not followed.

    Returns:
      Paths relative to FOLDER/NAME, and sizes in bytes.
    """
    found: dict[str, list[tuple[str, int]]] = {}
    top = folder / name
    pending: list[tuple[str, frozenset[Identity]]] = [("", frozenset(map(_identity, _above(folder))))]
    while pending:
        below, above = pending.pop()
        here = _identity(os.path.join(top, below))
        if here in above:
            skipped.add("circular links", os.path.join(name, below))
            continue
        found[below], folders = scan_folder(top, below, name, skipped)
        pending += [(os.path.join(below, inner), above | {here}) for inner in folders]
    paths, sizes = [], []
    for below in sorted(found):
        prefix = f"{below}/" if below else ""
        for file, size in sorted(found[below]):
            paths.append(prefix + file)
            sizes.append(size)
    return paths, sizes


def scan_folder(top: Path, below: str, name: str, skipped: Skipped) -> tuple[list[tuple[str, int]], list[str]]:
    """Return (name, size) of the images directly in TOP/BELOW, called NAME/BELOW in remarks, and its folders' names."""
    images, folders = [], []
    with scan(os.path.join(top, below)) as entries:
        for entry in entries:
            found = _image(entry) if entry.name.lower().endswith(EXTENSIONS) else _no_image(entry)
            if isinstance(found, int):
                images.append((entry.name, found))
            elif found == FOLDER:
                folders.append(entry.name)
            elif found:
                skipped.add(found, os.path.join(name, below, entry.name))
    return images, folders


def _image(entry: Entry) -> int | str:
    """Return the size of a file with the name of an image or, if it is skipped, its kind; "" to ignore it."""
    try:
        facts = entry.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return "dangling links"
    if stat.S_ISDIR(facts.st_mode):
        return IGNORED if is_hidden(entry.name) else FOLDER
    if entry.name.startswith("."):
        return "hidden files"
    if not stat.S_ISREG(facts.st_mode):
        return "other files"
    return facts.st_size or "empty files"


def _no_image(entry: Entry) -> str:
    """Return the kind of anything with another name."""
    if is_hidden(entry.name):
        return IGNORED
    if is_folder(entry):
        return FOLDER
    return "dangling links" if _is_dangling(entry) else "other files"


def is_folder(entry: Entry) -> bool:
    """Whether an entry is a folder, or a link that leads to one."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link that leads to itself


def _is_dangling(entry: Entry) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def is_hidden(folder: str) -> bool:
    """Whether a folder is neither a class nor part of one."""
    return folder.startswith(".") or folder in SYSTEM_FOLDERS


def _above(folder: Path) -> Sequence[Path]:
    if is_remote(folder):
        return ()
    resolved = folder.resolve()
    return resolved, *resolved.parents


def _identity(path: str | Path) -> Identity:
    if is_remote(as_path(path)):
        return str(path)
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino


def printable(name: str) -> str:
    """Return a file's name with all bytes that are not UTF-8, and all control characters, as escapes."""
    return escaped(os.fsencode(name).decode("utf-8", "backslashreplace"))
