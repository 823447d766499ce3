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
from cdnv2_jax.errors import UserError, shorten

LINKED_AGAIN = "linked again"
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

    Within a folder, files are sorted by name; hidden files and folders are ignored. Links are followed, but below a
    given folder, no folder is searched twice. A link without a target counts as an image, to be reported when it is
    read.

    Args:
      paths: files and folders.
      skipped: is increased by what is passed over in folders: files that are no images, by the ending of their names,
        and links to folders that were searched before.
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

    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        others: Counter[str] = Counter()
        unreadable: list[UserError] = []
        found = list(_below(path, others, unreadable))
        for error in unreadable:
            refuse(error)
        if not found and not unreadable:
            only = f", only {counts(others)}" if others else ""
            refuse(UserError(f"{path} holds no images ({', '.join(EXTENSIONS)}){only}"))
        skipped.update(others)
        yield from found


def _below(folder: Path, others: Counter[str], unreadable: list[UserError]) -> Iterator[Path]:
    def complain(error: OSError) -> None:
        unreadable.append(UserError(f"{error.filename} cannot be read: {error.strerror or error}"))

    searched = set()
    for directory, folders, files in os.walk(folder, onerror=complain, followlinks=True):
        here = os.path.realpath(directory)
        if here in searched:
            folders.clear()
            others[LINKED_AGAIN] += 1
            continue
        searched.add(here)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(name for name in files if not name.startswith(".")):
            path = Path(directory, name)
            if name.lower().endswith(EXTENSIONS) and (os.path.isfile(path) or not os.path.exists(path)):
                yield path
            else:
                others[path.suffix.lower() or "without an ending"] += 1


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
