"""tf.train.Example, the record format of TensorFlow's data sets, written and read without TensorFlow.

The encoding is a protocol buffer, from tensorflow/core/example/{example,feature}.proto. Field 1 of an Example is its
Features, whose field 1 repeats map entries (1: name, 2: Feature). Field 1 of a Feature is a list of bytes, 2 a list of
floats, 3 a list of integers. Field 1 of such a list holds the values.
"""

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np

BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5


def encode_example(features: Mapping[str, bytes | int]) -> bytes:
    """Encode one value, bytes or a non-negative integer, under each name."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, int):
            feature = _delimited(INT64_LIST, _delimited(1, _varint(value)))
        else:
            feature = _delimited(BYTES_LIST, _delimited(1, value))
        entries += _delimited(1, _delimited(1, name.encode()) + _delimited(2, feature))
    return _delimited(1, entries)


def decode_example(record: bytes) -> dict[str, bytes | int]:
    """Return the value of every feature that holds a single byte string or integer; all others are skipped.

    Raises:
      ValueError: the record is not an Example.
    """
    values = ((name, _only_value(feature)) for name, feature in _features(record))
    return {name: value for name, value in values if value is not None}


def decode_lists(record: bytes) -> dict[str, list[bytes] | np.ndarray]:
    """Return all values of every feature: bytes in a list, integers as int64 [n], floats as float32 [n].

    Raises:
      ValueError: the record is not an Example.
    """
    return {name: _all_values(feature) for name, feature in _features(record)}


def _features(record: bytes) -> Iterator[tuple[str, memoryview]]:
    for part in _values(memoryview(record), 1):
        for entry in _values(part, 1):
            name = "".join(str(text, "utf-8") for text in _values(entry, 1))
            for feature in _values(entry, 2):
                yield name, feature


def _only_value(feature: memoryview) -> bytes | int | None:
    # Two are enough to know that there is not one.
    texts = list(islice((text for values in _values(feature, BYTES_LIST) for text in _values(values, 1)), 2))
    numbers = list(islice((number for values in _values(feature, INT64_LIST) for number in _integers(values)), 2))
    if len(texts) + len(numbers) != 1:
        return None
    return bytes(texts[0]) if texts else numbers[0]


def _all_values(feature: memoryview) -> list[bytes] | np.ndarray:
    for values in _values(feature, FLOAT_LIST):
        # Every float is four bytes, whether packed or each in its own field.
        return np.frombuffer(b"".join(_values(values, 1)), "<f4").astype(np.float32)
    for values in _values(feature, INT64_LIST):
        try:
            return np.array(list(_integers(values)), np.int64)
        except OverflowError as error:
            raise ValueError("an integer of more than 64 bits") from error
    return [bytes(text) for texts in _values(feature, BYTES_LIST) for text in _values(texts, 1)]


def _integers(values: memoryview) -> Iterator[int]:
    """Yield integers that are packed into one field or each in its own; both are valid."""
    for number, value in _fields(values):
        if number != 1:
            continue
        if isinstance(value, int):
            yield _signed(value)
        else:
            position = 0
            while position < len(value):
                unsigned, position = _read_varint(value, position)
                yield _signed(unsigned)


def _values(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in _fields(message):
        if number == wanted:
            if isinstance(value, int):
                raise ValueError("a number instead of a message")
            yield value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield (number, value) of each field: integers as such, anything else as its bytes."""
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, position = _read_varint(message, position)
            yield number, value
            continue
        if kind == DELIMITED:
            size, position = _read_varint(message, position)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if size > len(message) - position:
            raise ValueError("it ends early")
        yield number, message[position : position + size]
        position += size


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError("a number does not end")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _varint(value: int) -> bytes:
    if value < 0:
        raise ValueError(f"negative integers are not supported: {value}")
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _delimited(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | DELIMITED) + _varint(len(content)) + content
