"""Hashes that identify a data set."""

import hashlib
from collections.abc import Iterable

import numpy as np


def fingerprint(*parts: str | bytes | np.ndarray | Iterable[str]) -> str:
    """Return the SHA-256 of texts, bytes, arrays and lists of texts, in hexadecimal; no two sequences look alike."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            kind, content = f"{part.dtype.newbyteorder('<').str}{part.shape}", np.ascontiguousarray(part)
            content = content.astype(content.dtype.newbyteorder("<"), copy=False).data
        elif isinstance(part, bytes):
            kind, content = "bytes", part
        elif isinstance(part, str):
            kind, content = "text", part.encode("utf-8", "surrogateescape")
        else:
            kind, content = "list", "".join(f"{len(text)}:{text}" for text in part).encode("utf-8", "surrogateescape")
        total.update(f"{kind} {len(content) if isinstance(content, bytes) else content.nbytes}\n".encode())
        total.update(content)
    return total.hexdigest()
