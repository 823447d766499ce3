"""Our encoding against the protocol buffers that TensorFlow Datasets comes with."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest

from cdnv2_jax.data.readers.tf_example import decode_example, encode_example

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
        try:
            decode_example(bytes(damaged))
        except ValueError:
            continue


@pytest.mark.parametrize("record", [b"\x0a", b"\x0a\x05", b"\x0b", b"\x80" * 20, b"\x08\x01"])
def test_no_example(record: bytes) -> None:
    with pytest.raises(ValueError):
        decode_example(record)


def test_negative_numbers_are_not_written() -> None:
    with pytest.raises(ValueError, match="-1"):
        encode_example({"label": -1})
