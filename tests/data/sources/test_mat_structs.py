"""Arrays of structs against SciPy, which wrote them, and files that are damaged in every place."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from cdnv2_jax.data.sources.mat_structs import read_structs
from tests.data.sources.imagenet_archives import SYNSETS, meta_mat

FIELDS = ("WNID", "ILSVRC2012_ID", "num_children")


def _write(compressed: bool, **fields: Sequence[object]) -> bytes:
    values = np.zeros((len(next(iter(fields.values()))), 1), [(name, object) for name in fields])
    for name, column in fields.items():
        for row, value in enumerate(column):
            values[row, 0][name] = value
    stream = io.BytesIO()
    savemat(stream, {"before": np.eye(3), "synsets": values, "after": "text"}, do_compression=compressed)
    return stream.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_as_scipy_reads_it(compressed: bool) -> None:
    numbers = [1, 2.5, np.uint8(200), np.int16(-3), np.float32(0.25), np.int32(70000)]
    texts = ["n01440764", "a", "größe", "longer than eight", "x" * 300, "日本"]
    data = _write(compressed, number=numbers, other=[[1, 2], {"a": 1}, "x", [], np.eye(2), "y"], text=texts)
    other = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
    ours = read_structs(data, "synsets", ("number", "text"))
    assert [(row["number"], row["text"]) for row in ours] == [(float(row["number"]), row["text"]) for row in other]
    assert [row["text"] for row in ours] == texts
    assert [row["other"] for row in read_structs(data, "synsets", ("other",))] == [None, None, "x", None, None, "y"]


def test_the_devkit() -> None:
    rows = read_structs(meta_mat(), "synsets", FIELDS)
    assert [(row["ILSVRC2012_ID"], row["WNID"], row["num_children"]) for row in rows] == [
        (number, wnid, len(children)) for number, (wnid, children) in SYNSETS.items()
    ]


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged(compressed: bool) -> None:
    """Cut anywhere, or with any byte changed: other values, or refused; never another error."""
    data = _write(compressed, WNID=["n1", "n2"], ILSVRC2012_ID=[1, 2], num_children=[0, 0])
    refused = 0
    changed = [data[:size] for size in range(0, len(data), 5)]
    changed += [data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :] for at in range(len(data)) for flip in (1, 0xFF)]
    for each in changed:
        try:
            read_structs(each, "synsets", FIELDS)
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > len(changed) / 4


def test_not_there() -> None:
    data = _write(False, a=[1])
    for name, fields, complaint in (("other", (), "no array"), ("before", (), "no array"), ("synsets", ("b",), "'b'")):
        with pytest.raises(ValueError, match=complaint):
            read_structs(data, name, fields)
    with pytest.raises(ValueError, match="not a little-endian"):
        read_structs(b"MATLAB 5.0 MAT-file, or not" * 20, "synsets", ())
