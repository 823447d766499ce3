"""Objects in a bucket: their paths, and what a bucket's failures are called."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from cdnv2_jax.errors import RunFailure, UserError, one_line

# They log every failed request with a traceback; our own messages report each failure once.
for _library in ("gcsfs", "s3fs", "aiobotocore"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)


class BucketPath(epath.gpath.PosixGPath):
    """The path of an object, or of all objects below a prefix, with the methods of `pathlib.Path` that are used here.

    Corrects what differs in `epath`: an unreachable bucket is an error, not a missing file; `absolute` is the path
    itself. Every request is repeated for half a minute (by gcsfs) before it fails.

    Raises (all methods that ask the bucket):
      FileNotFoundError: there is no such object.
      UserError: the bucket refuses, for lack of permission or credentials.
      RunFailure: the bucket does not answer.
    """

    @property
    def scheme(self) -> str:
        """ "gs" or "s3"."""
        return self.parts[1]

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self.parts[2]

    @property
    def key(self) -> str:
        """Path inside the bucket; "" for the bucket itself."""
        return "/".join(self.parts[3:])

    @property
    def files(self) -> Any:
        """The fsspec file system; listings are not cached, because other processes write there, too."""
        import fsspec

        fsspec.config.conf.setdefault(self.scheme, {})["use_listings_cache"] = False  # for epath's own, too
        return fsspec.filesystem(self.scheme)

    def _kind(self) -> str | None:
        """Return "file", "directory", or None if nothing is there."""
        try:
            with asking(self):
                return self.files.info(str(self))["type"]
        except FileNotFoundError:
            return None

    def exists(self) -> bool:
        return self._kind() is not None

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def absolute(self) -> "BucketPath":
        return self

    def size(self) -> int:
        """Size of the object in bytes."""
        with asking(self):
            return self.files.info(str(self))["size"]

    def iterdir(self) -> "Iterator[BucketPath]":
        with asking(self):
            entries = self.files.ls(str(self), detail=False)
        yield from sorted(path for entry in entries if (path := self._of(entry)) != self)

    def rglob(self, pattern: str) -> "Iterator[BucketPath]":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield all objects below whose name matches; unlike pathlib, no directories."""
        with asking(self):
            entries = self.files.find(str(self))
        yield from (path for entry in entries if (path := self._of(entry)).match(pattern))

    def _of(self, entry: str) -> "BucketPath":
        return BucketPath(f"{self.scheme}://{entry}")

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a bucket has no directories."""

    def read_bytes(self) -> bytes:
        with asking(self):
            return self.files.cat_file(str(self))

    def write_bytes(self, data: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write an object, whole or not at all."""
        with asking(self, writing=True):
            self.files.pipe_file(str(self), data)
        return len(data)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with asking(self):
                self.files.rm_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise


@contextlib.contextmanager
def asking(path: os.PathLike[str], *, writing: bool = False) -> Iterator[None]:
    """Turn what a request to a bucket raises into the errors of `BucketPath`."""
    try:
        yield
    except FileNotFoundError as error:
        if writing:
            raise UserError(f"{path} cannot be written: there is no such bucket: create it, or give another") from error
        raise FileNotFoundError(2, "no such object", str(path)) from error
    except (UserError, RunFailure):
        raise
    except Exception as error:  # of the packages' own types, and of those of their HTTP clients
        code = getattr(error, "code", getattr(error, "status", None))
        refused = isinstance(error, PermissionError | ValueError) or str(code) in ("400", "401", "403")
        if refused or "Forbidden" in str(error) or "credentials" in str(error).lower():
            raise UserError(
                f"{path} is refused ({one_line(error, 120)}): check the bucket's name, your credentials and permissions"
            ) from error
        raise RunFailure(
            f"{path}: the bucket does not answer ({type(error).__name__} {one_line(error, 100)}): start the same "
            f"command again when it does"
        ) from error
