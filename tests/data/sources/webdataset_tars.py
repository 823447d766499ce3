"""Tiny tars in the layout of WebDataset."""

from collections.abc import Mapping
from pathlib import Path

from tests.data.sources.imagenet_archives import JPEG, tar_bytes

LABELS = {"train": [0, 2, 1, 0, 1, 2, 2], "val": [1, 0]}
EACH = 3  # samples in a tar


def image(split: str, index: int) -> bytes:
    """The bytes of an image, another for each position."""
    return JPEG + f"{split} {index}".encode() * (index + 1)


def sample(split: str, index: int) -> dict[str, bytes]:
    """The files of a sample; one has more than an image and a label."""
    files = {f"{index:06d}.cls": b"%d\n" % LABELS[split][index], f"{index:06d}.jpg": image(split, index)}
    return files if index else {**files, f"{index:06d}.txt": b"a caption"}


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(files))
    return path


def write_tars(directory: Path) -> Path:
    """photos-SPLIT-00000N.tar, of both splits."""
    for split, labels in LABELS.items():
        for number, first in enumerate(range(0, len(labels), EACH)):
            indices = range(first, min(first + EACH, len(labels)))
            files = {name: content for index in indices for name, content in sample(split, index).items()}
            write_tar(directory / f"photos-{split}-{number:06d}.tar", files)
    return directory
