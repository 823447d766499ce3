"""Folders, files and parts of files of a data set, on a disk or in a bucket; a bucket is asked many things at once."""

import contextlib
import dataclasses
import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from cdnv2_jax.bounded_reading import read_bytes
from cdnv2_jax.data.source import AnyPicture, Source
from cdnv2_jax.data.watchdog import Task
from cdnv2_jax.errors import UserError
from cdnv2_jax.paths import as_path, is_remote

if TYPE_CHECKING:
    from cdnv2_jax.buckets import BucketPath

SMALL = 16 << 20  # bytes; an object of any size may turn up
AT_ONCE = 32  # requests; a bucket answers each after 20 to 100 ms
ADVICE = "copy it to a disk (gcloud storage cp -r, aws s3 cp --recursive), or mount the bucket (gcsfuse, Mountpoint)"

Item = TypeVar("Item")
Result = TypeVar("Result")


class Entry(Protocol):
    """What `scan` finds in a folder, as `os.DirEntry`."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    def is_dir(self) -> bool: ...
    def is_symlink(self) -> bool: ...
    def stat(self) -> os.stat_result: ...


@dataclasses.dataclass(frozen=True)
class _InBucket:
    """An object, or the folder that the names of some objects have in common; a folder has no size."""

    name: str
    path: str
    size: int | None

    def is_dir(self) -> bool:
        return self.size is None

    def is_symlink(self) -> bool:
        return False

    def stat(self) -> os.stat_result:
        mode = stat.S_IFDIR if self.size is None else stat.S_IFREG
        return os.stat_result((mode, 0, 0, 0, 0, 0, self.size or 0, 0, 0, 0))


@contextlib.contextmanager
def scan(folder: str | os.PathLike[str]) -> Iterator[Iterable[Entry]]:
    """As `os.scandir`, also for a folder in a bucket."""
    place = as_path(folder)
    if is_remote(place):
        yield _listed(place)
        return
    with os.scandir(folder) as entries:
        yield entries


def _listed(folder: "BucketPath") -> list[Entry]:
    from cdnv2_jax.buckets import asking

    with asking(folder):
        found = folder.files.ls(str(folder), detail=True)
    entries: list[Entry] = []
    for one in found:
        path = f"{folder.scheme}://{one['name'].rstrip('/')}"
        parent, _, name = path.rpartition("/")
        # A folder that was made by hand, an empty object, is listed in itself; other odd names are no paths.
        if parent == str(folder) and name not in ("", ".", ".."):
            entries.append(_InBucket(name, path, None if one["type"] == "directory" else int(one["size"])))
    return entries


def names_in(folder: Path) -> set[str]:
    """Return the names of all that is in a folder; OSError if there is none."""
    with scan(folder) as entries:
        return {entry.name for entry in entries}


def files_below(directory: Path, levels: int, ending: str) -> list[Path]:
    """Return the files so many levels below a directory whose names end so; none if there is no directory."""
    if not is_remote(directory):
        return list(directory.glob("*/" * levels + f"*{ending}"))
    entries = _entries(str(directory))
    for _ in range(levels):
        folders = [entry.path for entry in entries if entry.is_dir()]
        entries = [entry for inner in at_once(_entries, folders, in_bucket=True) for entry in inner]
    return [as_path(entry.path) for entry in entries if not entry.is_dir() and entry.name.endswith(ending)]


def _entries(folder: str) -> list[Entry]:
    try:
        with scan(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def walk(folder: str, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk` that follows links, also for a folder in a bucket."""
    if not is_remote(as_path(folder)):
        yield from os.walk(folder, onerror=onerror, followlinks=True)
        return
    try:
        with scan(folder) as entries:
            folders, files = ([one.name for one in entries if one.is_dir() == wanted] for wanted in (True, False))
    except OSError as error:
        onerror(error)
        return
    yield folder, folders, files
    for name in folders:
        yield from walk(f"{folder}/{name}", onerror)


def sizes_of(files: Sequence[Path]) -> list[int | None]:
    """Return the size of each file in bytes, None where there is none; lists a bucket's folders once each."""
    if not any(map(is_remote, files)):
        return [file.stat().st_size if os.path.isfile(file) else None for file in files]  # a name may be too long
    sizes: dict[str, int | None] = {}
    for folder in dict.fromkeys(file.parent for file in files):
        with contextlib.suppress(FileNotFoundError), scan(folder) as entries:
            sizes |= {entry.path: entry.stat().st_size for entry in entries if not entry.is_dir()}
    return [sizes.get(str(file)) for file in files]


def version_of(file: Path) -> tuple[int, int]:
    """Return a file's size in bytes, and a number that changes with its contents; OSError if it is missing."""
    if not is_remote(file):
        facts = file.stat()
        return facts.st_size, facts.st_mtime_ns
    from cdnv2_jax.buckets import asking

    with asking(file):
        facts = file.files.info(str(file))
    mark = str(facts.get("generation") or facts.get("ETag"))
    return int(facts["size"]), int.from_bytes(hashlib.sha256(mark.encode()).digest()[:7], "big")


def read_file(file: str | os.PathLike[str], most_bytes: int) -> bytes:
    """As `bounded_reading.read_bytes`, but with a single request for a small object; `file` may be an address."""
    place = as_path(file)
    if not is_remote(place):
        return read_bytes(place, most_bytes)
    try:
        found = read_part(place, 0, SMALL)
    except FileNotFoundError as error:
        raise ValueError(error.strerror) from error
    if len(found) < SMALL and len(found) <= most_bytes:
        return found
    return read_bytes(as_path(file), most_bytes)  # asks for the size first


def read_part(file: os.PathLike[str], offset: int, size: int) -> bytes:
    """Return `size` bytes of an object from `offset` on, fewer at its end; FileNotFoundError if there is none."""
    from cdnv2_jax.buckets import asking

    assert is_remote(file)
    with asking(file):
        try:
            return file.files.cat_file(str(file), start=offset, end=offset + size)
        except Exception as error:  # of the packages' own types
            if str(getattr(error, "code", "")) == "416" or "not satisfiable" in str(error):  # of gcsfs, of s3fs
                return b""  # the object ends before
            raise


def refuse_bucket(directory: os.PathLike[str], what: str) -> None:
    """Raise UserError if `directory` is in a bucket, which `what` cannot read."""
    if is_remote(directory):
        raise UserError(f"{directory}: {what} cannot be read from a bucket: {ADVICE}")


def at_once(call: Callable[[Item], Result], items: Iterable[Item], *, in_bucket: bool) -> Iterator[Result]:
    """Yield the results of `call` in order; `in_bucket`, `AT_ONCE` calls are under way at a time, in threads."""
    if not in_bucket:
        yield from map(call, items)
        return
    under_way = deque[Task[Result]]()
    for item in items:
        under_way.append(Task(partial(call, item)))
        if len(under_way) == AT_ONCE:
            yield _result(under_way.popleft())
    while under_way:
        yield _result(under_way.popleft())


def _result(task: Task[Result]) -> Result:
    task.join()
    return task.take()


class Ahead:
    """Samples in a bucket, of which those that are wanted next are read while others are decoded."""

    def __init__(self):
        self._started: dict[int, Task] = {}

    def __reduce__(self):
        return Ahead, ()

    def start(self, source: Source, indices: Iterable[int]) -> None:
        """Start to read samples that will be read soon, unless that has started; ignore indices outside the source."""
        for index in indices:
            if index not in self._started and 0 <= index < len(source):
                self._started[index] = Task(partial(source.__getitem__, index))

    def read(self, source: Source[AnyPicture], index: int) -> AnyPicture:
        """Return SOURCE[INDEX], or raise what that does; started or not."""
        task = self._started.pop(index, None)
        return source[index] if task is None else _result(task)
