"""Writing to disk all or nothing, and never over something that was not meant."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cdnv2_jax.errors import UserError, one_line


def refuse_existing(path: Path, overwrite: bool, *, file: bool = False) -> None:
    """UserError when something is at `path` and may not be replaced: never a directory by a `file`."""
    if file and path.is_dir():
        raise UserError(f"{path} exists and is a directory: give the path of a file")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: give another path, or --overwrite to replace it")


def remove(path: Path) -> None:
    """Removes a file or directory if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write a file or directory to; moved to `path` once the block succeeds.

    Whatever was at `path` stays as it was until then, and for good when the block fails.

    Raises:
      UserError: the operating system refuses.
    """
    # A directory around it, so that what a library leaves beside its unfinished output goes with it.
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
    """Where what can be made again is kept for the next run: `cdnv2_jax` in XDG_CACHE_HOME or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdnv2_jax"
