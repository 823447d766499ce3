"""Helpers for reading large files: a progress bar, archives read with size limits, arrays cached next to a file."""

import contextlib
import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cdnv2_jax.bounded_reading import refuse_irregular
from cdnv2_jax.data.sources.tar_members import TarFile
from cdnv2_jax.data.storage import read_file, version_of
from cdnv2_jax.errors import RunFailure, UserError, one_line
from cdnv2_jax.files import cache_directory, replacing
from cdnv2_jax.paths import is_remote
from cdnv2_jax.terminal import Terminal, escaped, say

Arrays = Mapping[str, np.ndarray]
STAMP = "stamp"
FORMAT = 1
MOST_CACHED = 1 << 30  # bytes; 20 to 100 for each image
MOST_UNPACKED = 400 << 20  # bytes; the largest archive, of CIFAR-10, has 180 MB


@contextlib.contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the amount of work done since its last call.

    Shows a progress bar in a terminal, and otherwise prints one line at the start.
    """
    console = Terminal()
    if not console.is_terminal:
        say(f"{description} …")
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task(escaped(description), total=total)
    with bar:
        yield lambda done: bar.advance(task, done)


def read_from_folder(folder: Path, wanted: Mapping[str, int]) -> dict[str, bytes]:
    """Return the contents of files, by name.

    Args:
      folder: folder of the files.
      wanted: name of each file → its size limit in bytes.

    Raises:
      UserError: a file is missing, unreadable or too large.
    """
    contents = {}
    for name, most in wanted.items():
        try:
            contents[name] = read_file(folder / name, most)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{folder / name} cannot be read ({error}): unpack it again") from error
    return contents


def read_gzip(path: Path, most: int) -> bytes:
    """Return what a .gz file unpacks to; UserError if it cannot be read, or unpacks to more than `most` bytes."""
    try:
        refuse_irregular(path.stat())
        with gzip.open(io.BytesIO(read_file(path, most)) if is_remote(path) else path) as packed:
            contents = packed.read(most + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}): download it again") from error
    if len(contents) > most:
        raise UserError(f"{path} unpacks to more than {most:,} bytes: download it again")
    return contents


class _UnpackedTar(TarFile):
    """A .tar.gz, unpacked in memory."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._data = read_gzip(path, MOST_UNPACKED)

    def size(self) -> int:
        return len(self._data)

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


def read_from_archive(archive: Path, wanted: Mapping[str, int]) -> dict[str, bytes]:
    """Like `read_from_folder`, from a .tar.gz that has the files at its top level or in a folder."""
    contents = {}
    tar = _UnpackedTar(archive)
    for member in tar.members():
        name = member.name.removeprefix("./")
        name = name if name in wanted else name.partition("/")[2]
        if name in wanted:
            if member.size > wanted[name]:
                size = f"{member.size:,} bytes, more than the {wanted[name]:,} allowed"
                raise UserError(f"{archive}: {name} has {size}: download it again")
            contents[name] = tar.read(member.offset, member.size)
    if missing := [name for name in wanted if name not in contents]:
        raise UserError(f"{archive} lacks {', '.join(missing)}: download it again")
    return contents


def cached_arrays(file: Path, build: Callable[[], Arrays], is_valid: Callable[[Arrays], bool]) -> Arrays:
    """Return the result of `build` for a file, computed once.

    It is cached in FILE.index.npz or, if that is not writable, in `cache_directory()`. A cache that cannot be read,
    does not satisfy `is_valid` or belongs to a file of another size or modification time is rebuilt.

    Args:
      file: the file that the arrays describe; it must exist.
      build: function that computes the arrays.
      is_valid: whether arrays from the cache, which is untrusted, can be the result of `build`.
    """
    try:
        refuse_irregular(file.stat())
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    stamp = np.array([FORMAT, *version_of(file)])
    unique = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    homes = [file.with_name(f"{file.name}.index.npz")]
    with contextlib.suppress(UserError):  # a user without a home has no cache there
        homes.append(cache_directory() / f"{file.name}.{unique}.npz")
    for home in homes:
        arrays = _load(home)
        if arrays is not None and np.array_equal(arrays.get(STAMP, ()), stamp) and is_valid(arrays):
            return arrays
    arrays = build()
    for home in homes:
        try:
            with replacing(home) as scratch, scratch.open("wb") as opened:
                np.savez(opened, allow_pickle=False, **arrays, **{STAMP: stamp})
            break
        except (UserError, RunFailure):
            continue  # not writable, and the cache is optional
    return arrays


def _load(path: Path) -> Arrays | None:
    """Return the arrays in a cache; None if there is none, or it is damaged."""
    if not is_remote(path) and not path.is_file():
        return None
    try:
        file = io.BytesIO(read_file(path, MOST_CACHED)) if is_remote(path) else path
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        # Compressed members could expand to any size, and so could those that overlap.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            return None
        size = file.getbuffer().nbytes if isinstance(file, io.BytesIO) else path.stat().st_size
        if sum(member.file_size for member in members) > size:
            return None
        with np.load(file, allow_pickle=False) as arrays:
            found = dict(arrays)
    except Exception:  # of zipfile and NumPy, of many types
        return None
    # An entry that is no array comes as bytes; any number of texts of no length fits into a file.
    arrays = all(isinstance(array, np.ndarray) and array.dtype.itemsize for array in found.values())
    return found if arrays else None
