"""Files of unknown origin, read within limits: regular files of a bounded size, and JSON of a bounded structure."""

import contextlib
import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdnv2_jax.errors import cut
from cdnv2_jax.paths import is_remote

if TYPE_CHECKING:
    from cdnv2_jax.buckets import BucketPath

MOST_BYTES = 16 << 20
"""Default limit for a text file; the largest ones that this package writes have a few MiB."""
FEW_CONTAINERS = 1_000_000
BYTES_PER_CONTAINER = 10
"""Empty lists take 30 times the memory of their text. In data, a list or object has 20 bytes or more of it."""


def read_bytes(path: str | Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the contents of a regular file, or of an object in a bucket.

    Raises:
      ValueError: it is something else, such as a pipe, which is not even opened; too large, or unreadable. The message
        is the reason, without the path.
      RunFailure: the bucket does not answer.
    """
    try:
        if is_remote(path):
            return _read_object(path, most_bytes)
        # Checked once more after it is opened, without blocking, because the path may have been replaced.
        refuse_irregular(os.stat(path))
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            facts = os.fstat(file.fileno())
            refuse_irregular(facts)
            _refuse_large(facts, most_bytes)
            return file.read(most_bytes)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def _read_object(path: "BucketPath", most_bytes: int) -> bytes:
    facts = path.stat()
    refuse_irregular(facts)
    _refuse_large(facts, most_bytes)
    return path.read_bytes()


def _refuse_large(facts: os.stat_result, most_bytes: int) -> None:
    if facts.st_size > most_bytes:
        raise ValueError(f"it has {facts.st_size:,} bytes, more than the {most_bytes:,} allowed")


def refuse_irregular(facts: os.stat_result) -> None:
    """Raise ValueError, with the reason, for anything but a regular file: to read a pipe may never end."""
    if stat.S_ISDIR(facts.st_mode):
        raise ValueError("it is a directory")
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError("it is a pipe, a socket or a device, not a regular file")


def refuse_irregular_tree(directory: Path) -> None:
    """Raise ValueError, with the place, if anything in a directory is neither a regular file nor a directory."""
    if is_remote(directory):  # where there is nothing else
        return
    for folder, folders, names in os.walk(directory):
        for place in (os.path.join(folder, name) for name in (*folders, *names)):
            with contextlib.suppress(OSError):  # removed meanwhile by another process
                mode = os.stat(place).st_mode
                if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                    raise ValueError(f"{place} is a pipe, a socket or a device")


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """Return the contents of a file in UTF-8, with or without a byte-order mark; any end of a line becomes a newline.

    Raises:
      ValueError: as for `read_bytes`, or it is not UTF-8.
    """
    return _decoded(read_bytes(path, most_bytes)).replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file; ValueError as for `read_bytes` and `parse_object`."""
    return parse_object(read_bytes(path, most_bytes))


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object in a text; ValueError as for `parse_json` or if it is another value."""
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; of bytes in UTF-8, UTF-16 or UTF-32.

    Raises:
      ValueError: it is not JSON, has a key twice, is nested too deeply, or would take far more memory than its text.
    """
    if isinstance(text, bytes):
        text = _decoded(text, json.detect_encoding(text))
    if text.count("[") + text.count("{") > max(FEW_CONTAINERS, len(text) // BYTES_PER_CONTAINER):
        raise ValueError("it has more lists and objects than any data")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"it has the key {cut(key, 80)!r} twice")
    return found


def _decoded(data: bytes, encoding: str = "utf-8-sig") -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8 (byte {error.start})") from error
