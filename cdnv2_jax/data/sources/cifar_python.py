"""CIFAR-10 and CIFAR-100 from their "python version", the pickles that torchvision downloads; nothing is executed."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax.data.source import Split
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.inert_pickle import StoredArray, read_plain_pickle

SIDE = 32
PIXELS = 3 * SIDE * SIDE
MOST_BYTES_EACH = PIXELS + 160  # an image, its label and its file name
MOST_MORE = 1 << 16


@dataclasses.dataclass(frozen=True)
class Pickles:
    """The layout of a data set.

    Attributes:
      folder: name of the unpacked folder.
      archive: name of the packed folder.
      names: file of the class names.
      names_key: what they are called in it.
      files: split → its files.
      labels_key: what labels are called in them.
      most_records: images in one file, at most.
    """

    folder: str
    archive: str
    names: str
    names_key: str
    files: Mapping[Split, list[str]]
    labels_key: str
    most_records: int

    def wanted(self, split: Split) -> dict[str, int]:
        """Return the name of each file of a split → its size limit in bytes."""
        most = self.most_records * MOST_BYTES_EACH + MOST_MORE
        return {self.names: MOST_MORE, **dict.fromkeys(self.files[split], most)}


CIFAR10 = Pickles(
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    names="batches.meta",
    names_key="label_names",
    files={"train": [f"data_batch_{number}" for number in range(1, 6)], "val": ["test_batch"]},
    labels_key="labels",
    most_records=10_000,
)
CIFAR100 = Pickles(
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    names="meta",
    names_key="fine_label_names",
    files={"train": ["train"], "val": ["test"]},
    labels_key="fine_labels",
    most_records=50_000,
)


def parse_pickles(
    pickles: Pickles, files: Mapping[str, bytes], split: Split, where: Path
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the pixels of a split, uint8 [n, 3072] channel by channel, the labels, int64 [n], and the class names.

    Raises:
      UserError: a file holds something else.
    """
    names = _read(files[pickles.names], f"{where}: {pickles.names}").get(pickles.names_key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: {pickles.names} has no {pickles.names_key}: download it again")
    images, labels = [], []
    for file in pickles.files[split]:
        content = _read(files[file], f"{where}: {file}")
        pixels, classes = content.get("data"), content.get(pickles.labels_key)
        pixels = np.asarray(pixels.array if isinstance(pixels, StoredArray) else None)
        if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXELS or not len(pixels):
            raise UserError(f"{where}: {file} has no data uint8 [n, {PIXELS}]: download it again")
        if not isinstance(classes, list) or len(classes) != len(pixels) or {type(label) for label in classes} != {int}:
            raise UserError(f"{where}: {file} has no {len(pixels)} {pickles.labels_key}: download it again")
        images.append(pixels)
        labels += classes
    return np.concatenate(images), np.array(labels), names


def _read(data: bytes, where: str) -> dict[str, Any]:
    """Return a pickled dictionary; its keys and names are text, whichever Python wrote it."""
    try:
        content = read_plain_pickle(data)
    except Exception as error:  # damaged pickles raise errors of many types
        raise UserError(f"{where} is no pickle of CIFAR ({one_line(error)}): download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{where} holds no dictionary: download it again")
    return {
        _text(key): [_text(entry) for entry in value] if isinstance(value, list) else value
        for key, value in content.items()
    }


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value
