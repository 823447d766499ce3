"""Our encoding against the protocol buffers that TensorFlow Datasets comes with."""

import contextlib
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from cdnv2_jax.data.sources.tf_example import decode_example, decode_lists, encode_example

# Classes that protocol buffers make when they are imported.
PROTO: Any = import_module("tensorflow_datasets.proto")

FEATURES = {"image": b"\xff\xd8" + bytes(range(256)) * 9, "label": 999, "zero": 0, "empty": b"", "große": 2**63 - 1}


def test_written_as_tensorflow_reads() -> None:
    read = PROTO.tf_example_pb2.Example.FromString(encode_example(FEATURES)).features.feature
    texts = {name: list(value.bytes_list.value) for name, value in read.items() if value.HasField("bytes_list")}
    numbers = {name: list(value.int64_list.value) for name, value in read.items() if value.HasField("int64_list")}
    assert texts == {"image": [FEATURES["image"]], "empty": [b""]}
    assert numbers == {"label": [999], "zero": [0], "große": [2**63 - 1]}


def _example() -> Any:
    example = PROTO.tf_example_pb2.Example()
    for name, value in {**FEATURES, "negative": -7}.items():
        feature = example.features.feature[name]
        (feature.bytes_list if isinstance(value, bytes) else feature.int64_list).value.append(value)
    return example


def test_read_as_tensorflow_writes() -> None:
    assert decode_example(_example().SerializeToString()) == {**FEATURES, "negative": -7}


def test_other_features_are_left_out() -> None:
    example = _example()
    example.features.feature["scores"].float_list.value.extend([0.5, 0.25])
    example.features.feature["boxes"].int64_list.value.extend([1, 2, 3])
    example.features.feature["lines"].bytes_list.value.extend([b"a", b"b"])
    example.features.feature["none"].CopyFrom(PROTO.tf_feature_pb2.Feature())
    assert decode_example(example.SerializeToString()) == {**FEATURES, "negative": -7}


def test_lists_of_every_kind() -> None:
    example = PROTO.tf_example_pb2.Example()
    written: dict[str, list[Any]] = {
        "lines": [b"a", b"", b"c"],
        "one": [b"x"],
        "whole": [1, -7, 2**63 - 1, 0],
        "shares": [0.5, -1e30, float("inf"), 0.1],
    }
    for name, values in written.items():
        feature = example.features.feature[name]
        lists = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}
        lists[type(values[0])].value.extend(values)
    example.features.feature["no floats"].float_list.SetInParent()
    example.features.feature["no integers"].int64_list.SetInParent()
    example.features.feature["none"].CopyFrom(PROTO.tf_feature_pb2.Feature())
    read = decode_lists(example.SerializeToString())
    assert (read["lines"], read["one"], read["none"]) == (written["lines"], written["one"], [])
    for name, kind in (("whole", np.int64), ("shares", np.float32), ("no floats", np.float32)):
        np.testing.assert_array_equal(read[name], np.array(written.get(name, []), kind))
        assert isinstance(read[name], np.ndarray) and np.asarray(read[name]).dtype == kind
    assert len(read["no integers"]) == 0 and len(read) == 7


def test_floats_that_are_not_packed() -> None:
    """Each in a field of its own: {1: {1: {1: "n", 2: {2: {1: 1.5, 1: -2}}}}}."""
    record = b"\x0a\x13\x0a\x11" + b"\x0a\x01n" + b"\x12\x0c\x12\x0a" + b"\x0d\0\0\xc0\x3f" + b"\x0d\0\0\0\xc0"
    np.testing.assert_array_equal(decode_lists(record)["n"], [1.5, -2])


@pytest.mark.parametrize(
    "values",
    [b"\x12\x05\x0a\x03abc", b"\x1a\x0d\x0a\x0b" + b"\xff" * 9 + b"\x7f\x00"],
    ids=["three bytes of a float", "an integer of 70 bits"],
)
def test_lists_of_what_is_no_number(values: bytes) -> None:
    feature = b"\x0a\x01n\x12" + bytes([len(values)]) + values
    entry = b"\x0a" + bytes([len(feature)]) + feature
    with pytest.raises(ValueError):
        decode_lists(b"\x0a" + bytes([len(entry)]) + entry)


def test_integers_that_are_not_packed() -> None:
    """Each in a field of its own: {1: {1: {1: "n", 2: {3: {1: 300}}}}}."""
    record = b"\x0a\x0e\x0a\x0c" + b"\x0a\x01n" + b"\x12\x07\x1a\x05" + b"\x08\xac\x82\x80\x00"
    expected = PROTO.tf_example_pb2.Example.FromString(record).features.feature["n"].int64_list.value
    assert decode_example(record) == {"n": expected[0]}


def test_only_value_errors_whatever_the_bytes() -> None:
    """Cut short and with bytes changed at random: an answer or a ValueError, and never out of bounds."""
    record = _example().SerializeToString()
    random = np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(record[: random.integers(0, len(record))])
        for position in random.integers(0, max(1, len(damaged)), 3):
            if damaged:
                damaged[position] = random.integers(0, 256)
        for read in (decode_example, decode_lists):
            with contextlib.suppress(ValueError):
                read(bytes(damaged))


@pytest.mark.parametrize("record", [b"\x0a", b"\x0a\x05", b"\x0b", b"\x80" * 20, b"\x08\x01"])
def test_no_example(record: bytes) -> None:
    with pytest.raises(ValueError):
        decode_example(record)


def test_negative_numbers_are_not_written() -> None:
    with pytest.raises(ValueError, match="-1"):
        encode_example({"label": -1})
