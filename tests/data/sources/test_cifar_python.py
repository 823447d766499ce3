"""CIFAR's python versions hold what the binary versions hold, and a pickle of anything else is refused unexecuted."""

import os
import pickle
import pickletools
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.cifar import read_cifar
from tests.data.sources import cifar_binaries, cifar_pickles
from tests.data.sources.cifar_pickles import batch, python2_pickle

Name = Literal["cifar10", "cifar100"]
TRAIN, TEST = cifar_pickles.FILES["cifar10", "train"], cifar_pickles.FILES["cifar10", "val"]


@pytest.mark.parametrize("write", [cifar_pickles.write_folder, cifar_pickles.write_archive])
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_as_the_binary_version(name: Name, split: Split, write: Callable[[Path, str], Path], tmp_path: Path) -> None:
    write(tmp_path / "python", name)
    cifar_binaries.write_folder(tmp_path / "binary", name)
    ours, other = read_cifar(name, tmp_path / "python", split), read_cifar(name, tmp_path / "binary", split)
    np.testing.assert_array_equal(ours.images, other.images)
    np.testing.assert_array_equal(ours.labels, other.labels)
    assert (ours.class_names, ours.kind) == (other.class_names, other.kind)
    assert ours.fingerprint() == other.fingerprint()


def test_torchvision_agrees(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    cifar_pickles.write_folder(tmp_path, "cifar10")

    files = {f"{key}_list": [(name, None) for name in names] for key, names in (("train", TRAIN), ("test", TEST))}
    without_checksums = {**files, "meta": {**datasets.CIFAR10.meta, "md5": None}}
    tiny = type("Tiny", (datasets.CIFAR10,), without_checksums)
    splits: dict[Split, bool] = {"train": True, "val": False}
    for split, train in splits.items():
        ours, other = read_cifar("cifar10", tmp_path, split), tiny(str(tmp_path), train=train)
        np.testing.assert_array_equal(ours.images, other.data)
        assert (ours.labels.tolist(), ours.class_names) == (other.targets, other.classes)


@pytest.mark.parametrize("pickled", [python2_pickle, *(partial(pickle.dumps, protocol=number) for number in (2, 3, 4))])
def test_pickles(pickled: Callable[[Any], bytes], tmp_path: Path) -> None:
    """As Python's reader, from what different Pythons write."""
    content = batch("cifar10", "train", 1)
    folder = cifar_pickles.write_folder(tmp_path, "cifar10")
    data = pickled(content)
    other = pickle.loads(data, encoding="bytes")
    for file in TRAIN:
        (folder / file).write_bytes(data)
    ours = read_cifar("cifar10", tmp_path, "train")
    expected = np.tile(other[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), (len(TRAIN), 1, 1, 1))
    np.testing.assert_array_equal(ours.images, expected)
    assert ours.labels.tolist() == other[b"labels"] * len(TRAIN)


class _Call:
    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self._made = (function, arguments)

    def __reduce__(self):
        return self._made


def _pickles_of_more(directory: Path) -> dict[str, bytes]:
    touch = pickle.dumps({b"data": _Call(Path.touch, directory / "executed")}, 2)
    python2 = python2_pickle(batch("cifar10", "train", 0))
    return {
        "touches": touch,
        "system": pickle.dumps(_Call(os.system, f"touch {directory}/executed"), 4),
        "evaluates": b"c__builtin__\neval\n(S'1'\ntR.",
        "objects": pickle.dumps({b"data": np.array([_Call(os.getcwd)], object)}, 4),
        "floats": pickle.dumps({b"data": np.zeros((1, 3072), np.float32)}, 4),
        "another shape": python2.replace(b"J\x00\x0c", b"J\x00\x0d"),
        "another class": python2.replace(b"cnumpy\nndarray", b"cnumpy\nmemmap"),
        "cut": python2[:-200],
        "a long text": b"\x80\x02T\xff\xff\xff\x7fabc.",
        "a huge text": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc.",
        "nothing to append to": b"\x80\x02K\x01(e.",
        "no mark": b"\x80\x02]K\x01e.",
        "an unhashable key": b"\x80\x02}(]K\x01u.",
        "nothing in memory": b"\x80\x02h\x05.",
        "nothing": b"",
        "no dictionary": b"\x80\x02K\x01.",
        "builds a list": b"\x80\x02]}b.",
        "long": b"\x80\x02" + b"N0" * (1 << 20) + b".",
        "many": b"\x80\x02" + b"N" * ((1 << 20) + 1) + b".",
    }


def test_pickles_of_anything_else(tmp_path: Path) -> None:
    folder = cifar_pickles.write_folder(tmp_path, "cifar10")
    good = (folder / "data_batch_3").read_bytes()
    for name, data in _pickles_of_more(tmp_path).items():
        (folder / "data_batch_3").write_bytes(data)
        with pytest.raises(
            UserError, match=r"data_batch_3 (is no pickle|has no|holds no).*: download it again"
        ) as error:
            read_cifar("cifar10", tmp_path, "train")
        assert "\n" not in str(error.value), name
    assert not (tmp_path / "executed").exists()
    assert pickletools.optimize(good)  # the good one is a pickle for Python too


def _changed(content: dict[bytes, Any], key: bytes, value: Any) -> dict[bytes, Any]:
    return {**content, key: value}


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        (b"data", np.zeros((3, 3071), np.uint8), r"data_batch_3 has no data uint8 \[n, 3072\]"),
        (b"data", np.zeros((0, 3072), np.uint8), r"data_batch_3 has no data"),
        (b"data", [1, 2], r"data_batch_3 has no data"),
        (b"labels", [1, 2], "data_batch_3 has no 3 labels"),
        (b"labels", [1, 2, b"3"], "data_batch_3 has no 3 labels"),
        (b"labels", [1, 2, 10], "a label is 10, of 10 classes"),
    ],
)
def test_damaged(key: bytes, value: Any, complaint: str, tmp_path: Path) -> None:
    folder = cifar_pickles.write_folder(tmp_path, "cifar10")
    content = _changed(batch("cifar10", "train", 2), key, value)
    (folder / "data_batch_3").write_bytes(python2_pickle(content))
    with pytest.raises(UserError, match=complaint):
        read_cifar("cifar10", tmp_path, "train")


def test_too_large(tmp_path: Path) -> None:
    folder = cifar_pickles.write_folder(tmp_path, "cifar10")
    with (folder / "data_batch_3").open("wb") as opened:
        opened.truncate(40_000_000)
    with pytest.raises(UserError, match="data_batch_3 cannot be read \\(it has 40,000,000 bytes, more than"):
        read_cifar("cifar10", tmp_path, "train")
    shutil.rmtree(folder)
