"""Which image files are meant by paths of files and folders."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cdnv2_jax.data.readers.image_folder import EXTENSIONS
from cdnv2_jax.errors import UserError


def image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as they are given, whatever they are called; of folders all images in them, also in folders within.

    Names decide the order within a folder; hidden files and folders are left out.

    Raises:
      UserError: a folder without images.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = list(_below(path))
        if not found:
            raise UserError(f"{path} holds no images ({', '.join(EXTENSIONS)})")
        yield from found


def _below(folder: Path) -> Iterator[Path]:
    for directory, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield Path(directory, name)
