"""Objects in a bucket: their paths, uploads of whole files, and what a bucket's failures are called.

A bucket has no directories, no locks and no renaming, and objects are written whole: nothing can be appended to one.
"""

import contextlib
import errno
import io
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils.epath import gpath

from cdnv2_jax.errors import RunFailure, UserError, one_line

# They log every failed request with a traceback; our own messages report each failure once.
for _library in ("gcsfs", "s3fs", "aiobotocore", "google.auth"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)

# Read when gcsfs is imported. By default, it first asks over gRPC of which kind a bucket is: again at each request if
# there is no answer, and where there are no credentials it waits for some each time.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

SILENCE = 10  # seconds; a request that is silent for so long is repeated, up to five times. s3fs has limits of its own


class BucketPath(gpath.PosixGPath):
    """The path of an object, or of all objects below a prefix, with the methods of `pathlib.Path` that are used here.

    Corrects what differs in `epath`: an unreachable bucket is an error, not a missing file; `absolute` is the path
    itself. Failing requests are repeated for half a minute (by gcsfs).

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
        """The fsspec file system; listings are not cached, because other processes and libraries write there, too."""
        import aiohttp
        import fsspec
        from fsspec.config import conf

        silence = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
        for scheme in ("gs", "gcs"):  # the second is what epath, and so Orbax, calls it
            conf.setdefault(scheme, {}).update(use_listings_cache=False, requests_timeout=silence)
        conf.setdefault("s3", {})["use_listings_cache"] = False
        return fsspec.filesystem(self.scheme)

    def absolute(self) -> "BucketPath":
        """Return the path itself."""
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        """Return the path itself."""
        return self

    def stat(self) -> os.stat_result:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the mode (file or directory) and the size, the rest 0."""
        with asking(self):
            found = self.files.info(str(self))
        mode = stat.S_IFDIR if found["type"] == "directory" else stat.S_IFREG
        return os.stat_result((mode, 0, 0, 0, 0, 0, found["size"] or 0, 0, 0, 0))

    def _mode(self) -> int:
        """Return the mode; 0 if nothing is there."""
        try:
            return self.stat().st_mode
        except FileNotFoundError:
            return 0

    def exists(self) -> bool:
        """Return whether there is such an object, or any below it."""
        return self._mode() != 0

    def is_file(self) -> bool:
        """Return whether there is such an object."""
        return stat.S_ISREG(self._mode())

    def is_dir(self) -> bool:
        """Return whether there is any object below."""
        return stat.S_ISDIR(self._mode())

    def iterdir(self) -> "Iterator[BucketPath]":
        """Yield what is directly below, sorted."""
        with asking(self):
            entries = self.files.ls(str(self), detail=False)
        yield from sorted(path for entry in entries if (path := self._of(entry)) != self)

    def glob(self, pattern: str) -> "Iterator[BucketPath]":
        """Yield what is directly below and whose name matches; nothing if nothing is below."""
        with contextlib.suppress(FileNotFoundError):
            yield from (path for path in self.iterdir() if path.match(pattern))

    def sizes(self) -> "dict[BucketPath, int]":
        """Return all objects below, or the object itself, and their sizes in bytes."""
        with asking(self):
            found = self.files.find(str(self), detail=True)
        return {self._of(entry): facts["size"] for entry, facts in found.items() if facts["type"] == "file"}

    def _of(self, entry: str) -> "BucketPath":
        return BucketPath(f"{self.scheme}://{entry}")

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a bucket has no directories."""

    def read_bytes(self) -> bytes:
        """Return an object's contents."""
        with asking(self):
            return self.files.cat_file(str(self))

    def open(self, mode: str = "r", **text: Any) -> Any:
        """Return an object's contents as a file to read, of bytes or text; `text` as for `pathlib.Path.open`."""
        if mode not in ("r", "rb"):
            raise ValueError(f"objects are written whole, not in mode {mode!r}")
        data = io.BytesIO(self.read_bytes())
        return data if mode == "rb" else io.TextIOWrapper(data, **text)

    def remove(self) -> None:
        """Remove the object and all below it, if there are any."""
        for path in self.sizes():
            with asking(self), contextlib.suppress(FileNotFoundError):  # by another process
                self.files.rm_file(str(path))

    def upload(self, local: Path) -> None:
        """Write a local file as an object: whole or not at all."""
        with asking(self, writing=True):
            self.files.put_file(str(local), str(self))

    @contextlib.contextmanager
    def downloaded(self) -> Iterator[Path]:
        """Yield a local copy of an object, for libraries that read nothing else."""
        with tempfile.TemporaryDirectory(prefix="cdnv2-") as folder:
            local = Path(folder, self.name)
            with asking(self):
                self.files.get_file(str(self), str(local))
            yield local

    @contextlib.contextmanager
    def staged(self, last: str = "") -> Iterator[Path]:
        """Yield a local path for a file or a directory, and upload what is there once the `with` block succeeds.

        Args:
          last: of a directory, the file that is written last, without which readers take the others for nothing.
        """
        with tempfile.TemporaryDirectory(prefix="cdnv2-") as folder:
            local = Path(folder, self.name)
            yield local
            if not local.is_dir():
                self.upload(local)
                return
            found = (path for path in local.rglob("*") if path.is_file())
            self._replace_all({self / str(path.relative_to(local)): path for path in found}, last)

    def _replace_all(self, files: "dict[BucketPath, Path]", last: str) -> None:
        """Replace all objects below by local files: at first beside the old ones, and `last` is gone in between."""
        before, end = self.sizes().keys(), {self / last}
        for path in sorted(files.keys() - before - end):
            path.upload(files[path])
        if last:
            (self / last).remove()
        for path in [*sorted((files.keys() & before) - end), *(files.keys() & end)]:
            path.upload(files[path])
        for path in before - files.keys():
            path.remove()

    def mirrored(self, *names: str) -> "Mirror":
        """Return a new local directory for files that grow, with copies of those named that exist here."""
        mirror = Mirror(self)
        for path in (path for name in names if (path := self / name).is_file()):
            (mirror.local / path.name).write_bytes(path.read_bytes())
        return mirror


class Mirror:
    """A local directory whose files are uploaded whole again and again, as objects cannot be appended to.

    Attributes:
      local: the directory.
    """

    def __init__(self, remote: BucketPath):
        self._remote, self._folder = remote, tempfile.TemporaryDirectory(prefix="cdnv2-")
        self.local = Path(self._folder.name)
        self._uploaded: dict[Path, tuple[int, int]] = {}

    def upload(self) -> None:
        """Upload the files that have changed."""
        for file in sorted(self.local.rglob("*")):
            facts = file.stat()
            if file.is_file() and self._uploaded.get(file) != (facts.st_size, facts.st_mtime_ns):
                (self._remote / str(file.relative_to(self.local))).upload(file)
                self._uploaded[file] = facts.st_size, facts.st_mtime_ns

    def close(self) -> None:
        """Upload what has changed, and remove the directory."""
        with self._folder:
            self.upload()


@contextlib.contextmanager
def asking(path: BucketPath, *, writing: bool = False) -> Iterator[None]:
    """Turn what a request to a bucket raises into the errors of `BucketPath`."""
    try:
        yield
    except FileNotFoundError as error:
        if writing:
            raise UserError(f"{path} cannot be written: there is no bucket {path.bucket}: create it first") from error
        raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from error
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
