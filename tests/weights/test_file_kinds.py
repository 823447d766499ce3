"""Files that hold no weights, or more than weights: one short line says what they are and what to do."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cdnv2_jax import UserError
from cdnv2_jax.weights import torch_reading
from cdnv2_jax.weights.torch_reading import read_checkpoint
from tests.tables import table

MODULE = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
SEQUENTIAL = "asks for torch.nn.modules.container.Sequential"
SAVE = 'torch.save(model.state_dict(), "weights.pth")'


def _saved(contents: object = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": MODULE.state_dict()} if contents is None else contents, buffer, **options)
    return buffer.getvalue()


def _zipped(names: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, contents in names.items():
            archive.writestr(name, contents)
    return buffer.getvalue()


def _repacked() -> bytes:
    with zipfile.ZipFile(io.BytesIO(_saved())) as archive:
        return _zipped({name: archive.read(name) for name in archive.namelist()}, zipfile.ZIP_DEFLATED)


def _tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())
    return buffer.getvalue()


def _numpy_archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, w=np.ones(3))
    return buffer.getvalue()


def _script() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch will give it up
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


def _overlapping(entries: int = 20) -> bytes:
    """A zip archive whose directory names one stored tensor again and again."""
    data = bytes(4000)
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), 3, 0)
    body, directory = local + b"a/0" + data, b""
    for number in range(entries):
        name = b"a/data.pkl" if not number else b"a/%d" % number
        numbers = (20, 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(name), 0, 0, 0, 0, 0, 0)
        directory += struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", *numbers) + name
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, entries, entries, len(directory), len(body), 0)
    return body + directory + end


KINDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (bytes, "is empty: download it again"),
    "gzip": (lambda: gzip.compress(_saved()), "is compressed by gzip: unpack it with gunzip"),
    "bzip2": (lambda: bz2.compress(_saved()), "is compressed by bzip2: unpack it"),
    "xz": (lambda: lzma.compress(_saved()), "is compressed by xz: unpack it"),
    "tar": (_tarred, "is a real tar archive: unpack it with tar -xf"),
    "zip of a file": (lambda: _zipped({"weights.pth": _saved()}), "unzip it and give the file inside"),
    "compressed again": (_repacked, "was packed again with compression"),
    "NumPy archive": (_numpy_archive, f"is a NumPy archive (.npz), not a PyTorch file…{SAVE}"),
    "web page": (lambda: b"\n<!DOCTYPE html><html>Virus scan warning", "is a web page, not the weights"),
    "Git LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "git lfs pull"),
    "safetensors": (lambda: struct.pack("<Q", 2) + b'{"a":0}', "is a safetensors file: rename it"),
    "TorchScript": (_script, SAVE),
    "whole model": (
        lambda: _saved(MODULE),
        f"{SEQUENTIAL}, and loading it would run code…{SAVE}",
    ),
    "whole model inside": (
        lambda: _saved({"model": MODULE, "epoch": 3}),
        f"{SEQUENTIAL}…{SAVE}",
    ),
    "half a file": (lambda: _saved()[:-900], "is not a complete PyTorch file, its end is missing or damaged"),
    "half an old file": (lambda: _saved(_use_new_zipfile_serialization=False)[:-90], "not a complete PyTorch file"),
    "later protocol": (lambda: _saved(pickle_protocol=4), f"pickle protocol 4 or later…{SAVE}"),
    "later protocol, old": (
        lambda: _saved(pickle_protocol=4, _use_new_zipfile_serialization=False),
        f"pickle protocol 4 or later…{SAVE}",
    ),
    "one tensor many times": (_overlapping, "declares 80,000 bytes of tensors but has"),
    "list": (lambda: _saved([torch.zeros(1)]), f"holds a list, not a dict of weights…{SAVE}"),
}


@table("write, complaint", KINDS)
def test_what_it_is_and_what_to_do(write: Callable[[], bytes], complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth.tar"
    path.write_bytes(write())
    with pytest.raises(UserError) as refusal:
        read_checkpoint(path)
    message = str(refusal.value)
    assert message.startswith(f"{path} ") and "\n" not in message
    assert all(part in message for part in complaint.split("…")), message
    assert len(message) < 300 + len(str(path))


def test_unpacked_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(_saved())) as archive:
        archive.extractall(tmp_path / "weights")
    with pytest.raises(UserError, match="weights is an unpacked PyTorch file: pack it with zip -0 -r"):
        read_checkpoint(tmp_path / "weights")


def test_archive_of_too_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_reading, "MOST_ENTRIES", 5)
    (tmp_path / "weights.pth").write_bytes(_saved())
    with pytest.raises(UserError, match=r"holds \d+ tensors, more than any checkpoint"):
        read_checkpoint(tmp_path / "weights.pth")
