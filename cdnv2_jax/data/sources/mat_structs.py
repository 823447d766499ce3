"""Numbers and texts from an array of structs in a MATLAB file of level 5, such as ImageNet's meta.mat.

SciPy's reader covers the whole format, but some damaged files end its process. This one reads only scalars and texts.
The format: "MAT-File Format", MathWorks, chapter 1. An element is a tag (type, bytes), then its contents, filled up to
a multiple of 8 bytes; one of up to four bytes fits into its tag.
"""

import itertools
import struct
import zlib
from collections.abc import Collection, Iterator

import numpy as np

HEADER, ENDIAN = 128, b"IM"  # of little-endian files
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
STRUCT, CHAR, NUMERIC = 2, 4, range(6, 16)  # classes of matrices
MOST_BYTES = 64 << 20
MOST_STRUCTS, MOST_FIELDS, MOST_DIMENSIONS = 100_000, 100, 32  # ImageNet has 1,860 structs of 8 fields

Value = float | str | None
Element = tuple[int, memoryview]


def read_structs(data: bytes, name: str, wanted: Collection[str]) -> list[dict[str, Value]]:
    """Return the wanted fields of every struct in the array `name`: numbers, texts, or None for anything else.

    Raises:
      ValueError: there is no such array, or the file is damaged.
    """
    if len(data) < HEADER or data[HEADER - 2 : HEADER] != ENDIAN:
        raise ValueError("not a little-endian MATLAB file of level 5")
    try:
        for kind, content in _elements(memoryview(data)[HEADER:]):
            if kind == COMPRESSED:
                kind, content = next(_elements(_unpacked(content)))
            if kind == MATRIX:
                parts = _elements(content)
                matrix_class, shape, called = _head(parts)
                if called == name and matrix_class == STRUCT:
                    return _structs(parts, shape, wanted)
    except (StopIteration, IndexError, zlib.error) as error:
        raise ValueError("an array that ends early") from error
    raise ValueError(f"no array of structs called {name!r}")


def _unpacked(content: memoryview) -> memoryview:
    machine = zlib.decompressobj()
    unpacked = machine.decompress(content, MOST_BYTES)
    if not machine.eof:
        raise ValueError("a compressed array that is cut or too large")
    return memoryview(unpacked)


def _elements(data: memoryview) -> Iterator[Element]:
    position = 0
    while position + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, position)
        if kind >> 16:  # a short one, both in four bytes
            kind, size, start, following = kind & 0xFFFF, kind >> 16, position + 4, position + 8
        else:
            start = position + 8
            following = start + (size if kind == COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data) or (start == position + 4 and size > 4):
            raise ValueError("an element that ends after its place")
        yield kind, data[start : start + size]
        position = following


def _head(parts: Iterator[Element]) -> tuple[int, list[int], str]:
    """Return class, shape and name of a matrix."""
    flags, shape, name = _numbers(next(parts)), _numbers(next(parts)), next(parts)
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"an array of {len(shape)} dimensions")
    return int(flags[0]) & 0xFF, shape.astype(int).tolist(), bytes(name[1]).decode("latin-1")


def _numbers(element: Element) -> np.ndarray:
    kind, content = element
    if kind not in NUMBERS:
        raise ValueError(f"numbers of the unknown type {kind}")
    return np.frombuffer(content, NUMBERS[kind])


def _structs(parts: Iterator[Element], shape: list[int], wanted: Collection[str]) -> list[dict[str, Value]]:
    """Return the structs: for each in turn, a matrix for each field."""
    length, names = int(_numbers(next(parts))[0]), bytes(next(parts)[1])
    if length < 1 or len(names) % length or len(names) // length > MOST_FIELDS:
        raise ValueError("names of fields that cannot be told apart")
    fields = [names[start : start + length].split(b"\0")[0].decode("latin-1") for start in range(0, len(names), length)]
    if missing := set(wanted) - set(fields):
        raise ValueError(f"structs without {sorted(missing)}")
    most = MOST_STRUCTS * len(fields)
    matrices = zip(itertools.cycle(fields), itertools.islice(parts, most + 1), strict=False)
    values = [(field, _value(content) if field in wanted else None) for field, (_, content) in matrices]
    if len(values) > most:
        raise ValueError(f"more than {MOST_STRUCTS:,} structs")
    count, rest = divmod(len(values), len(fields))
    if rest or count != np.prod(shape, dtype=object):
        raise ValueError(f"{len(values)} values in {shape} structs of {len(fields)} fields")
    rows = [values[start : start + len(fields)] for start in range(0, len(values), len(fields))]
    return [{field: value for field, value in row if field in wanted} for row in rows]


def _value(content: memoryview) -> Value:
    """Return the number or text in a matrix."""
    if not len(content):
        return None
    parts = _elements(content)
    matrix_class, _, _ = _head(parts)
    if matrix_class == CHAR:
        kind, text = next(parts)
        return bytes(text).decode(TEXTS[kind]) if kind in TEXTS else None
    numbers = _numbers(next(parts)) if matrix_class in NUMERIC else ()
    return float(numbers[0]) if len(numbers) == 1 else None
