"""Which image files are meant: given files, all images in given folders, and lists of paths on standard input."""

import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from cdnv2_jax.data.decode import EXTENSIONS
from cdnv2_jax.data.sources.class_folders import is_hidden
from cdnv2_jax.data.storage import walk
from cdnv2_jax.errors import UserError, shorten
from cdnv2_jax.paths import as_path, is_remote

FOUND_AGAIN = "found again"
GIVE_A_PATH = "give an image by its path"
LONGEST_PATH = 1 << 16  # bytes; systems allow a few thousand

NO_LIST = {
    re.compile(start, re.DOTALL): kind
    for start, kind in (
        (rb"\xff\xd8\xff", "a JPEG image"),
        (rb"\x89PNG\r\n", "a PNG image"),
        (rb"GIF8[79]a.[\0-\x1f].[\0-\x1f]", "a GIF image"),
        (rb"RIFF....WEBP", "a WebP image"),
        (rb"II\*\0|MM\0\*", "a TIFF image"),
        (rb"BM....\0{4}", "a BMP image"),
        (rb"\xff\xfe|\xfe\xff", "text in UTF-16"),
    )
}
"""How something starts that is not a list of paths, and what it is."""


def image_files(
    paths: Iterable[Path], skipped: Counter[str] | None = None, refused: list[UserError] | None = None
) -> Iterator[Path]:
    """Yield files as given, whatever their names, and all images in the given folders and their subfolders.

    Within a folder, files are sorted by name; hidden files and folders are ignored. Links are followed. No folder is
    searched twice, and its images are not yielded again if they are given after it, as `find` does. A link without a
    target counts as an image, to be reported when it is read.

    Args:
      paths: files and folders.
      skipped: is increased by what is passed over: files in folders that are no images, by the ending of their names,
        and what was found before.
      refused: is extended by an error for each given folder without images and each folder that cannot be read; None
        to raise the first one.

    Raises:
      UserError: unless there is a list for it.
    """
    skipped = Counter() if skipped is None else skipped

    def refuse(error: UserError) -> None:
        if refused is None:
            raise error
        refused.append(error)

    searched: set[str] = set()
    for path in paths:
        is_folder = _is_folder(path)
        folder = path if is_folder else path.parent
        if searched and _real(folder) in searched and (is_folder or _is_image(path)):
            skipped[FOUND_AGAIN] += 1
            continue
        if not is_folder:
            yield path
            continue
        others: Counter[str] = Counter()
        unreadable: list[UserError] = []
        found = list(_below(path, searched, others, unreadable))
        for error in unreadable:
            refuse(error)
        if not found and not unreadable and not others[FOUND_AGAIN]:
            only = f", only {counts(others)}" if others else ""
            refuse(UserError(f"{path} holds no images ({', '.join(EXTENSIONS)}){only}"))
        skipped.update(others)
        yield from found


def _below(folder: Path, searched: set[str], others: Counter[str], unreadable: list[UserError]) -> Iterator[Path]:
    def complain(error: OSError) -> None:
        unreadable.append(UserError(f"{error.filename} cannot be read: {error.strerror or error}"))

    for directory, folders, files in walk(str(folder), complain):
        here = _real(directory)
        if here in searched:
            folders.clear()
            others[FOUND_AGAIN] += 1
            continue
        searched.add(here)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(name for name in files if not name.startswith(".")):
            path = as_path(os.path.join(directory, name))
            if _is_image(path):
                yield path
            else:
                others[path.suffix.lower() or "without an ending"] += 1


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder; a bucket is not asked about each of many images."""
    if is_remote(path):
        return not path.name.lower().endswith(EXTENSIONS) and path.is_dir()
    return os.path.isdir(path)


def _real(folder: str | Path) -> str:
    """Return a folder's path without links."""
    return str(folder) if is_remote(as_path(folder)) else os.path.realpath(folder)


def _is_image(path: Path) -> bool:
    """Whether a file is taken for an image when its folder is searched."""
    is_called_so = path.name.lower().endswith(EXTENSIONS) and not path.name.startswith(".")
    return is_called_so and (is_remote(path) or os.path.isfile(path) or not os.path.exists(path))


def counts(kinds: Counter[str]) -> str:
    """Return "12 .heic, 1 .txt", the most frequent first."""
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return shorten([f"{count:,} {kind}" for kind, count in ordered])


def listed_paths(stream: BinaryIO) -> Iterator[str]:
    """Yield the paths in a list, one per line or, as from `find -print0`, each with a zero byte after it.

    They are read as they come, and may hold any bytes. Empty lines and a byte-order mark are ignored.

    Raises:
      UserError: it is something else, such as an image.
    """
    pieces = iter(lambda: cast(io.BufferedReader, stream).read1(LONGEST_PATH), b"")
    first = next(pieces, b"").removeprefix(b"\xef\xbb\xbf")
    if kind := next((kind for start, kind in NO_LIST.items() if start.match(first)), None):
        raise UserError(f"standard input is {kind}, but - takes paths, in UTF-8, one per line: {GIVE_A_PATH}")
    rest, separator, ends = b"", b"\n", b"\r"
    for piece in itertools.chain([first], pieces):
        if b"\0" in piece:
            separator, ends = b"\0", b""
        *complete, rest = (rest + piece).split(separator)
        if len(rest) >= LONGEST_PATH:
            raise UserError(f"standard input is not a list of paths, one per line or zero byte: {GIVE_A_PATH}")
        yield from (os.fsdecode(name.rstrip(ends)) for name in complete if name.strip())
    if rest.strip():
        yield os.fsdecode(rest.rstrip(ends))
