"""CIFAR-10 and CIFAR-100 from their "binary version", packed or unpacked.

The "python version" of the same data consists of pickles, which can execute code when loaded; it is not supported.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from cdnv2_jax.data.source import PixelSource, Split
from cdnv2_jax.data.sources.files import read_from_archive, read_from_folder
from cdnv2_jax.errors import UserError

SIDE = 32
PIXELS = SIDE * SIDE * 3
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

LAYOUT = "put {} (the binary version) or its folder {} into DIRECTORY"
LAYOUTS = {
    "cifar10": LAYOUT.format(VERSIONS["cifar10"].archive, VERSIONS["cifar10"].folder),
    "cifar100": LAYOUT.format(VERSIONS["cifar100"].archive, VERSIONS["cifar100"].folder),
}


def read_cifar(name: Literal["cifar10", "cifar100"], directory: Path, split: Split) -> PixelSource:
    """Read 50,000 training or 10,000 test images, uint8 [32, 32, 3], with the class names.

    Raises:
      UserError: files are missing, damaged, or not a whole number of records.
    """
    version = VERSIONS[name]
    record = version.label_bytes + PIXELS
    wanted = {version.names: MOST_NAMES, **dict.fromkeys(version.files[split], version.most_records * record)}
    if (where := directory / version.folder).is_dir():
        files = read_from_folder(where, wanted)
    elif (where := directory / version.archive).is_file():
        files = read_from_archive(where, wanted)
    else:
        raise UserError(f"{directory} holds no {version.archive}: {LAYOUTS[name]}")

    class_names = files[version.names].decode("utf-8", "replace").split()
    if len(class_names) != version.classes:
        raise UserError(f"{where}: {version.names} must name {version.classes} classes, has {len(class_names)}")
    for file in version.files[split]:
        if not files[file] or len(files[file]) % record:
            size = len(files[file])
            raise UserError(f"{where}: {file} has {size} bytes, not a multiple of {record}: download it again")
    records = np.concatenate([np.frombuffer(files[file], np.uint8) for file in version.files[split]])
    records = records.reshape(-1, record)
    labels = records[:, version.label_bytes - 1].astype(np.int32)
    if labels.max() >= version.classes:
        raise UserError(f"{where}: a label is {labels.max()}, of {version.classes} classes: download it again")
    # Pixels are stored channel by channel.
    images = records[:, version.label_bytes :].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return PixelSource(np.ascontiguousarray(images), labels, class_names, f"{name} {split} image")
