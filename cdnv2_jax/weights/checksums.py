"""Checksums of arrays and files, and seals of JSON objects: what has changed on disk is noticed when it is read.

They show damage, not origin: anyone who forges a file can compute them too.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

SEAL = "seal"
FORMAT = 2
"""Format of sealed objects. Those of older versions have neither seal nor format, or format 1: no single changed bit
makes a sealed object look like one of them."""

UNSEALED = (None, 1)

ONNX_KEY = "cdnv2_jax.sha256"
"""Key of an ONNX file's own SHA-256 in its metadata; its 64 digits count as zeros."""

NO_DIGEST = "0" * 64
# How protobuf writes an entry of `metadata_props`: field 1, the key, and field 2, the value, each after its length.
_ONNX_ENTRY = b"\x0a%c%b\x12%c" % (len(ONNX_KEY), ONNX_KEY.encode(), len(NO_DIGEST))


def checksum(array: Any) -> int:
    """Return the CRC-32 of an array's values in C order."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def checksums(arrays: Mapping[str, Any]) -> dict[str, int]:
    """Return the CRC-32 of every array, which the storage formats lack."""
    return {name: checksum(array) for name, array in arrays.items()}


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with their format and a hash of all of them."""
    plain = json.loads(json.dumps({**values, "format": FORMAT}))
    return {**plain, SEAL: _digest(plain)}


def _digest(values: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in values.items() if key != SEAL}
    return sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())


def seal_fault(values: Mapping[str, Any]) -> str:
    """Return why values read back cannot be trusted; "" if they can, or if an older version wrote them unsealed."""
    if is_unsealed(values):
        return ""
    if values.get(SEAL) != _digest(values):
        return "its description has changed since it was written"
    if values.get("format") != FORMAT:
        return f"it has format {values.get('format')}, of a newer version of this package"
    return ""


def is_unsealed(values: Mapping[str, Any]) -> bool:
    """Return whether an older version wrote these values."""
    return SEAL not in values and values.get("format") in UNSEALED


def sha256(data: bytes | bytearray) -> str:
    """Return the SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def with_onnx_sum(data: bytes) -> bytes:
    """Return an ONNX file whose metadata has zeros under ONNX_KEY with its SHA-256 in their place."""
    before, entry, after = data.partition(_ONNX_ENTRY)
    return before + entry + sha256(data).encode() + after[len(NO_DIGEST) :]


def onnx_fault(data: bytes) -> str:
    """Return what is wrong with an ONNX file; "" if its SHA-256 is right. Nothing of it is parsed."""
    before, entry, after = data.partition(_ONNX_ENTRY)
    if not entry or _ONNX_ENTRY in after:
        return "is not an ONNX file written by this `cdnv2 export`: it has no checksum"
    stored, rest = after[: len(NO_DIGEST)], after[len(NO_DIGEST) :]
    if stored != sha256(before + entry + NO_DIGEST.encode() + rest).encode():
        return "is damaged: its checksum differs"
    return ""
