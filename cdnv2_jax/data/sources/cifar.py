"""CIFAR-10 and CIFAR-100 from their "binary version" or, see cifar_python.py, their "python version"."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from cdnv2_jax.data.source import PixelSource, Split
from cdnv2_jax.data.sources.cifar_python import CIFAR10, CIFAR100, PIXELS, SIDE, parse_pickles
from cdnv2_jax.data.sources.files import read_from_archive, read_from_folder
from cdnv2_jax.errors import UserError

MOST_NAMES = 1 << 16  # bytes in the file of class names


@dataclasses.dataclass(frozen=True)
class _Version:
    """The layout of a data set; a record is `label_bytes` labels, of which the last is used, and then the pixels."""

    folder: str
    archive: str
    names: str
    files: Mapping[Split, list[str]]
    classes: int
    label_bytes: int
    most_records: int  # in one file


VERSIONS = {
    "cifar10": _Version(
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        names="batches.meta.txt",
        files={
            "train": [
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            "val": ["test_batch.bin"],
        },
        classes=10,
        label_bytes=1,
        most_records=10_000,
    ),
    "cifar100": _Version(
        folder="cifar-100-binary",
        archive="cifar-100-binary.tar.gz",
        names="fine_label_names.txt",
        files={"train": ["train.bin"], "val": ["test.bin"]},
        classes=100,
        label_bytes=2,  # coarse, fine
        most_records=50_000,
    ),
}

PICKLES = {"cifar10": CIFAR10, "cifar100": CIFAR100}
LAYOUTS = {
    name: f"put {version.archive} or {PICKLES[name].archive}, or a folder unpacked from one, into DIRECTORY"
    for name, version in VERSIONS.items()
}


def read_cifar(name: Literal["cifar10", "cifar100"], directory: Path, split: Split) -> PixelSource:
    """Read 50,000 training or 10,000 test images, uint8 [32, 32, 3], with the class names.

    Raises:
      UserError: files are missing, damaged, or not a whole number of records.
    """
    version, pickles = VERSIONS[name], PICKLES[name]
    if found := _find(directory, version.folder, version.archive, _wanted(version, split)):
        where, files = found
        pixels, labels, class_names = _parse(version, files, split, where)
    elif found := _find(directory, pickles.folder, pickles.archive, pickles.wanted(split)):
        where, files = found
        pixels, labels, class_names = parse_pickles(pickles, files, split, where)
    else:
        raise UserError(f"{directory} holds neither {version.archive} nor {pickles.archive}: {LAYOUTS[name]}")

    if len(class_names) != version.classes:
        raise UserError(f"{where} must name {version.classes} classes, has {len(class_names)}: download it again")
    if labels.min() < 0 or labels.max() >= version.classes:
        odd = labels.min() if labels.min() < 0 else labels.max()
        raise UserError(f"{where}: a label is {odd}, of {version.classes} classes: download it again")
    # Pixels are stored channel by channel.
    images = np.ascontiguousarray(pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
    return PixelSource(images, labels.astype(np.int32), class_names, f"{name} {split} image")


def _find(
    directory: Path, folder: str, archive: str, wanted: Mapping[str, int]
) -> tuple[Path, dict[str, bytes]] | None:
    """Return the folder or else the archive, and its files; None if neither exists."""
    if (where := directory / folder).is_dir():
        return where, read_from_folder(where, wanted)
    if (where := directory / archive).exists():
        return where, read_from_archive(where, wanted)
    return None


def _wanted(version: _Version, split: Split) -> dict[str, int]:
    most = version.most_records * (version.label_bytes + PIXELS)
    return {version.names: MOST_NAMES, **dict.fromkeys(version.files[split], most)}


def _parse(
    version: _Version, files: Mapping[str, bytes], split: Split, where: Path
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the pixels of a split, uint8 [n, 3072] channel by channel, the labels, uint8 [n], and the class names."""
    record = version.label_bytes + PIXELS
    for file in version.files[split]:
        if not files[file] or len(files[file]) % record:
            size = len(files[file])
            raise UserError(f"{where}: {file} has {size} bytes, not a multiple of {record}: download it again")
    records = np.concatenate([np.frombuffer(files[file], np.uint8) for file in version.files[split]])
    records = records.reshape(-1, record)
    names = files[version.names].decode("utf-8", "replace").split()
    return records[:, version.label_bytes :], records[:, version.label_bytes - 1], names
