"""CIFAR-10 and CIFAR-100 from their "binary version", packed or unpacked.

The "python version" of the same data consists of pickles, which can run any code when they are read: never read here.
"""

import dataclasses
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from cdnv2_jax.data.source import PixelSource, Split
from cdnv2_jax.errors import UserError, one_line

SIDE = 32
PIXELS = SIDE * SIDE * 3
MOST_NAMES = 1 << 16  # bytes of the file with the names of the classes


@dataclasses.dataclass(frozen=True)
class _Version:
    """How a data set is laid out; a record is `label_bytes` labels, of which the last counts, and then the pixels."""

    folder: str
    archive: str
    names: str
    files: dict[Split, list[str]]
    classes: int
    label_bytes: int
    most_records: int  # in one file


VERSIONS = {
    "cifar10": _Version(
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        names="batches.meta.txt",
        files={"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "val": ["test_batch.bin"]},
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


def layout(name: str) -> str:
    """What to put where."""
    version = VERSIONS[name]
    return f"put {version.archive} (the binary version) or its folder {version.folder} into DIRECTORY"


def read_cifar(name: Literal["cifar10", "cifar100"], directory: Path, split: Split) -> PixelSource:
    """50,000 training or 10,000 test images, uint8 [32, 32, 3], with the classes' names.

    Raises:
      UserError: not there, damaged, or of another size than its records make up.
    """
    version = VERSIONS[name]
    record = version.label_bytes + PIXELS
    wanted = [version.names, *version.files[split]]
    if (directory / version.folder).is_dir():
        where, files = directory / version.folder, _from_folder(directory / version.folder, wanted, version)
    elif (directory / version.archive).is_file():
        where, files = directory / version.archive, _from_archive(directory / version.archive, wanted, version)
    else:
        raise UserError(f"{directory} holds no {version.archive}: {layout(name)}")

    class_names = files[version.names].decode("utf-8", "replace").split()
    if len(class_names) != version.classes:
        raise UserError(f"{where}: {version.names} must name {version.classes} classes, has {len(class_names)}")
    batches = []
    for file in version.files[split]:
        if not files[file] or len(files[file]) % record:
            raise UserError(f"{where}: {file} has {len(files[file])} bytes, no multiple of {record}: download it again")
        batches.append(np.frombuffer(files[file], np.uint8).reshape(-1, record))
    records = np.concatenate(batches)
    labels = records[:, version.label_bytes - 1].astype(np.int32)
    if labels.max() >= version.classes:
        raise UserError(f"{where}: a label is {labels.max()}, of {version.classes} classes: download it again")
    # All of an image's red comes before its green and its blue.
    images = records[:, version.label_bytes :].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return PixelSource(np.ascontiguousarray(images), labels, class_names, f"{name} {split} image")


def _most_bytes(file: str, version: _Version) -> int:
    return MOST_NAMES if file == version.names else version.most_records * (version.label_bytes + PIXELS)


def _from_folder(folder: Path, wanted: Sequence[str], version: _Version) -> dict[str, bytes]:
    files = {}
    for name in wanted:
        try:
            size = (folder / name).stat().st_size
            if size > _most_bytes(name, version):
                raise UserError(f"{folder / name} has {size} bytes, more than CIFAR's: download it again")
            files[name] = (folder / name).read_bytes()
        except OSError as error:
            raise UserError(f"{folder / name} cannot be read ({error.strerror or error}): unpack it again") from error
    return files


def _from_archive(archive: Path, wanted: Sequence[str], version: _Version) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(archive, "r:gz") as opened:
            for member in opened:
                name = member.name.removeprefix("./").removeprefix(f"{version.folder}/")
                if name in wanted and member.isreg():
                    if member.size > _most_bytes(name, version):
                        raise UserError(f"{archive}: {name} has {member.size} bytes, more than CIFAR's")
                    contents = opened.extractfile(member)
                    files[name] = contents.read() if contents else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{archive} cannot be read ({one_line(error)}): download it again") from error
    if missing := [name for name in wanted if name not in files]:
        raise UserError(f"{archive} lacks {', '.join(missing)}: download it again")
    return files
