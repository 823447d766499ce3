"""Helpers for reading large files: a progress bar, archives read with size limits, arrays cached next to a file."""

import contextlib
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.files import replacing
from cdnv2_jax.terminal import Terminal, escaped, say

Arrays = Mapping[str, np.ndarray]
CACHE = Path(".cache") / "cdnv2_jax"  # in the home directory
STAMP = "stamp"
FORMAT = 1


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
            _check_size(f"{folder / name}", (folder / name).stat().st_size, most)
            contents[name] = (folder / name).read_bytes()
        except OSError as error:
            raise UserError(f"{folder / name} cannot be read ({error.strerror or error}): unpack it again") from error
    return contents


def read_from_archive(archive: Path, wanted: Mapping[str, int]) -> dict[str, bytes]:
    """Like `read_from_folder`, from a .tar.gz that has the files at its top level or in a folder."""
    contents = {}
    try:
        with tarfile.open(archive, "r:gz") as opened:
            for member in opened:
                name = member.name.removeprefix("./")
                name = name if name in wanted else name.partition("/")[2]
                if member.isreg() and name in wanted:
                    _check_size(f"{archive}: {name}", member.size, wanted[name])
                    file = opened.extractfile(member)
                    contents[name] = file.read() if file else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{archive} cannot be read ({one_line(error)}): download it again") from error
    if missing := [name for name in wanted if name not in contents]:
        raise UserError(f"{archive} lacks {', '.join(missing)}: download it again")
    return contents


def _check_size(file: str, size: int, most: int) -> None:
    if size > most:
        raise UserError(f"{file} has {size} bytes, more than the {most} expected: download it again")


def cached_arrays(file: Path, build: Callable[[], Arrays], is_valid: Callable[[Arrays], bool]) -> Arrays:
    """Return the result of `build` for a file, computed once.

    It is cached in FILE.index.npz or, if that is not writable, in ~/.cache/cdnv2_jax. A cache that cannot be read, does
    not satisfy `is_valid` or belongs to a file of another size or modification time is rebuilt.

    Args:
      file: the file that the arrays describe; it must exist.
      build: function that computes the arrays.
      is_valid: whether arrays from the cache, which is untrusted, can be the result of `build`.
    """
    facts = file.stat()
    stamp = np.array([FORMAT, facts.st_size, facts.st_mtime_ns])
    unique = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    homes = [file.with_name(f"{file.name}.index.npz"), Path.home() / CACHE / f"{file.name}.{unique}.npz"]
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
        except UserError:
            continue  # not writable, and the cache is optional
    return arrays


def _load(path: Path) -> Arrays | None:
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            # Compressed members could expand to any size.
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                return None
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, KeyError, MemoryError, zipfile.BadZipFile):
        return None
