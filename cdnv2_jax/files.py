"""Atomic writes to disk or to a bucket, locks, and protection against overwriting by accident."""

import contextlib
import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from cdnv2_jax.errors import RunFailure, UserError, one_line
from cdnv2_jax.paths import as_path, is_remote


def refuse_existing(path: Path, overwrite: bool, *, file: bool = False) -> None:
    """Raise UserError if `path` exists and may not be replaced; a `file` never replaces a directory."""
    path = as_path(path)
    if file and path.is_dir():
        raise UserError(f"{path} exists and is a directory: give the path of a file")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: give another path, or --overwrite to replace it")


def remove(path: Path) -> None:
    """Remove a file or directory if it exists."""
    if is_remote(path):
        path.remove()
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def bytes_under(path: Path) -> int:
    """Return the size of a file, or of all files in a directory and below it."""
    if is_remote(path):
        return sum(path.sizes().values())
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@contextlib.contextmanager
def replacing(path: Path, *, last: str = "") -> Iterator[Path]:
    """Yield a temporary path, for a file or a directory; move or upload it to `path` once the block succeeds.

    Until then, and when the block fails, `path` stays as it was.

    Args:
      path: where to write.
      last: of a directory, the file without which readers take the others for nothing; uploaded last to a bucket,
        where a directory cannot be written in one step.

    Raises:
      UserError: the operating system or the bucket refuses the write.
      RunFailure: the bucket does not answer.
    """
    path = as_path(path)
    try:
        with path.staged(last) if is_remote(path) else _beside(path) as scratch:
            yield scratch
    except (UserError, RunFailure):
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}{_advice(error)}") from error
    except (RuntimeError, ValueError) as error:  # how PyTorch and Orbax report a full disk
        raise UserError(f"{path} cannot be written: {one_line(error)}") from error


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    # A directory of its own, so that a library's temporary files beside its output are removed with it.
    scratch = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tidy(path)
        scratch.mkdir()
        yield scratch / path.name
        _flush(scratch / path.name)
        if path.is_dir():
            path.rename(_former(path))  # removing takes long
        (scratch / path.name).replace(path)
    finally:
        with contextlib.suppress(OSError):
            tidy(path)


def tidy(path: Path) -> None:
    """Remove what a killed `replacing` left beside `path`; if that had moved a directory aside, move it back."""
    if is_remote(path):
        return
    if not path.exists() and _former(path).exists():
        _former(path).rename(path)
    remove(_former(path))
    remove(_partial(path))


def leftovers(path: Path) -> tuple[str, str]:
    """Return the names of what `tidy` removes."""
    return _partial(path).name, _former(path).name


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _former(path: Path) -> Path:
    return path.with_name(f".{path.name}.former")


def _flush(path: Path) -> None:
    """Have a file, or all files of a directory, on the disk: a rename may otherwise survive a power failure alone."""
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _advice(error: OSError) -> str:
    return ": make room and start the same command again" if error.errno in NO_ROOM else ""


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; UserError as for `replacing`."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[str]:
    """Hold a lock on the file `path` during a `with` block; yield what the user should know about it, if anything.

    The lock ends with this process, however that ends, and child processes do not inherit it. The file stays.

    Raises:
      UserError: another process holds the lock; names its host and process id, and `what` it uses.
    """
    if is_remote(path):
        yield f"{what} is in a bucket, which has no locks: start nothing else there"
        return
    try:
        import fcntl
    except ImportError:  # Windows
        yield f"{what} cannot be locked on this system: start nothing else there"
        return
    with path.open("a+", encoding="utf-8") as file:
        note = ""
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                holder = " ".join(file.read(200).split()) or "an unknown process"
                raise UserError(f"{what} is in use by {holder}: wait for it, or give another one") from error
            note = f"{what} is on a file system without locks ({error.strerror}): start nothing else there"
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield note


def cache_directory() -> Path:
    """Return the directory of files that later runs reuse or rebuild: `cdnv2_jax` in XDG_CACHE_HOME or in ~/.cache.

    Raises:
      UserError: there is no XDG_CACHE_HOME and this user has no home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdnv2_jax"
    except RuntimeError as error:
        raise UserError("this user has no home directory to cache files in: set XDG_CACHE_HOME to one") from error
