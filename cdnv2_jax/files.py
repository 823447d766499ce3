"""Atomic writes to disk, and protection against overwriting by accident."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cdnv2_jax.errors import UserError, one_line


def refuse_existing(path: Path, overwrite: bool, *, file: bool = False) -> None:
    """Raise UserError if `path` exists and may not be replaced; a `file` never replaces a directory."""
    if file and path.is_dir():
        raise UserError(f"{path} exists and is a directory: give the path of a file")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: give another path, or --overwrite to replace it")


def remove(path: Path) -> None:
    """Remove a file or directory if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for a file or a directory; move it to `path` once the block succeeds.

    Until then, and when the block fails, `path` stays as it was.

    Raises:
      UserError: the operating system refuses the write.
    """
    # A directory of its own, so that a library's temporary files beside its output are removed with it.
    scratch = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(scratch)
        scratch.mkdir()
        yield scratch / path.name
        if path.is_dir():
            remove(path)
        (scratch / path.name).replace(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    except (RuntimeError, ValueError) as error:  # how PyTorch and Orbax report a full disk
        raise UserError(f"{path} cannot be written: {one_line(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            remove(scratch)


def cache_directory() -> Path:
    """Return the directory of files that later runs reuse or rebuild: `cdnv2_jax` in XDG_CACHE_HOME or in ~/.cache.

    Raises:
      UserError: there is no XDG_CACHE_HOME and this user has no home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdnv2_jax"
    except RuntimeError as error:
        raise UserError("this user has no home directory to cache files in: set XDG_CACHE_HOME to one") from error
