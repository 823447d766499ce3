"""Arrays that took long to work out from a file, kept beside it until the file changes."""

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from cdnv2_jax.errors import UserError
from cdnv2_jax.files import replacing

Arrays = Mapping[str, np.ndarray]
CACHE = Path(".cache") / "cdnv2_jax"  # in the home directory
STAMP = "stamp"
FORMAT = 1


def cached_arrays(file: Path, build: Callable[[], Arrays], is_right: Callable[[Arrays], bool]) -> Arrays:
    """What `build` gave for this file once, or what it gives now.

    Kept in FILE.index.npz or, where that cannot be written, in ~/.cache/cdnv2_jax; anything in there that cannot be
    read, does not satisfy `is_right` or belongs to a file of another size or time of change is built anew.

    Args:
      file: what the arrays are about; it must exist.
      build: makes them.
      is_right: whether arrays from the cache can be what `build` gives; they are untrusted.
    """
    facts = file.stat()
    stamp = np.array([FORMAT, facts.st_size, facts.st_mtime_ns])
    unique = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    homes = [file.with_name(f"{file.name}.index.npz"), Path.home() / CACHE / f"{file.name}.{unique}.npz"]
    for home in homes:
        arrays = _load(home)
        if arrays is not None and np.array_equal(arrays.get(STAMP, ()), stamp) and is_right(arrays):
            return arrays
    arrays = build()
    for home in homes:
        try:
            with replacing(home) as scratch, scratch.open("wb") as opened:
                np.savez(opened, allow_pickle=False, **arrays, **{STAMP: stamp})
            break
        except UserError:
            continue  # not writable; without any cache it works all the same
    return arrays


def _load(path: Path) -> Arrays | None:
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            # Compressed members could be any size once read.
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                return None
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, KeyError, MemoryError, zipfile.BadZipFile):
        return None
