"""Paths as users give them: of this machine, addresses in a bucket, gs://BUCKET/… and s3://BUCKET/…, or the names of
networks that come with the package, pretrained:NAME.
"""

import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, cast

from cdnv2_jax.errors import UserError, install_command
from cdnv2_jax.pretrained import PREFIX, pretrained_file

if TYPE_CHECKING:
    from cdnv2_jax.buckets import BucketPath

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
"""Scheme of a supported address → package that reads and writes there."""
_SCHEME = re.compile(r"(gs|s3):/+|([A-Za-z][A-Za-z0-9+.-]+)://", re.IGNORECASE)


def as_path(given: str | os.PathLike[str]) -> Path:
    """Return a path of this machine or, for gs://BUCKET/… and s3://BUCKET/…, a `BucketPath`, which has its methods.

    Args:
      given: a path, an address or pretrained:NAME; also a `pathlib.Path` of an address, in which it has lost a slash
        (gs:/BUCKET/…).

    Raises:
      UserError: another scheme, an address without a bucket, an unknown NAME, or the package for the scheme is missing.
    """
    if is_remote(given):
        return cast(Path, given)
    text = os.fspath(given)
    if text.startswith(PREFIX):
        return pretrained_file(text.removeprefix(PREFIX))
    found = _SCHEME.match(text)
    if found is None:
        return Path(text)
    scheme, rest = (found[1] or found[2]).lower(), text[found.end() :]
    if scheme not in PACKAGES:
        raise UserError(f"{text}: paths of {scheme}:// are not supported: give one of this machine, of gs:// or s3://")
    if not rest:
        raise UserError(f"{text} names no bucket: give {scheme}://BUCKET/…")
    if importlib.util.find_spec(PACKAGES[scheme]) is None:
        raise UserError(f"{scheme}://{rest} needs the package {PACKAGES[scheme]}: {install_command('buckets')}")
    from cdnv2_jax.buckets import BucketPath  # takes long

    return cast(Path, BucketPath(f"{scheme}://{rest}"))


def is_remote(path: str | os.PathLike[str]) -> "TypeGuard[BucketPath]":
    """Return whether `as_path` has returned this path for an address in a bucket."""
    return not isinstance(path, str | Path) and hasattr(path, "bucket")
