"""Tiny data sets in the layout of CIFAR's python versions, as Python 2 pickled the originals."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.sources.cifar_binaries import EACH, NAMES, image_and_label, pack

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
META = {"cifar10": ("batches.meta", b"label_names"), "cifar100": ("meta", b"fine_label_names")}
LABELS = {"cifar10": b"labels", "cifar100": b"fine_labels"}
FILES = {
    ("cifar10", "train"): [f"data_batch_{number}" for number in range(1, 6)],
    ("cifar10", "val"): ["test_batch"],
    ("cifar100", "train"): ["train"],
    ("cifar100", "val"): ["test"],
}
MEMOISE = b"q\x00"  # BINPUT, which Python 2 puts after every value


def python2_pickle(content: dict[bytes, Any]) -> bytes:
    """Protocol 2 as `cPickle.dump(content, file, 2)` wrote it."""
    return b"\x80\x02" + _value(content) + b"."


def _value(value: Any) -> bytes:
    if isinstance(value, bytes):
        size = b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))
        return size + value + MEMOISE
    if isinstance(value, int):
        return b"K" + bytes([value]) if value < 256 else b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"]" + MEMOISE + b"(" + b"".join(map(_value, value)) + b"e"
    if isinstance(value, dict):
        return b"}" + MEMOISE + b"(" + b"".join(_value(key) + _value(item) for key, item in value.items()) + b"u"
    dtype = b"cnumpy\ndtype\n" + _value(b"u1") + b"K\x00K\x01\x87R(K\x03" + _value(b"|") + b"NNNJ\xff\xff\xff\xff"
    dtype += b"J\xff\xff\xff\xffK\x00tb"
    empty = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + MEMOISE + b"cnumpy\nndarray\nK\x00\x85" + _value(b"b") + b"\x87R"
    )
    shape = b"".join(map(_value, value.shape)) + b"\x86"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + _value(value.tobytes()) + b"tb"


def batch(name: str, split: str, number: int) -> dict[bytes, Any]:
    """The contents of a file: the images and labels that the binary version has in the file of this number."""
    pairs = [image_and_label(name, split, index) for index in range(number * EACH, number * EACH + EACH)]
    return {
        b"batch_label": b"training batch 1 of 5",
        LABELS[name]: [label for _, label in pairs],
        b"data": np.stack([image.transpose(2, 0, 1).reshape(-1) for image, _ in pairs]),
        b"filenames": [b"leptodactylus_pentadactylus_s_000004.png"] * EACH,
    }


def write_folder(directory: Path, name: str, pickled: Callable[[dict[bytes, Any]], bytes] = python2_pickle) -> Path:
    """The unpacked folder."""
    folder = directory / FOLDERS[name]
    folder.mkdir(parents=True)
    file, key = META[name]
    names = {b"num_cases_per_batch": 10000, key: [text.encode() for text in NAMES[name]], b"num_vis": 3072}
    (folder / file).write_bytes(pickled(names))
    for (which, split), files in FILES.items():
        for number, file in enumerate(files if which == name else []):
            (folder / file).write_bytes(pickled(batch(name, split, number)))
    return folder


def write_archive(directory: Path, name: str) -> Path:
    """The packed form of the same."""
    return pack(write_folder(directory / "unpacked", name), directory / ARCHIVES[name])
