"""Tiny data sets in the layout of CIFAR's binary versions."""

import tarfile
from pathlib import Path

import numpy as np

EACH = 3  # records in a file
NAMES = {
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "cifar100": [f"kind_{number}" for number in range(100)],
}
FOLDERS = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
ARCHIVES = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}
FILES = {
    ("cifar10", "train"): [f"data_batch_{number}.bin" for number in range(1, 6)],
    ("cifar10", "val"): ["test_batch.bin"],
    ("cifar100", "train"): ["train.bin"],
    ("cifar100", "val"): ["test.bin"],
}


def image_and_label(name: str, split: str, index: int) -> tuple[np.ndarray, int]:
    """uint8 [32, 32, 3] and class of the image there."""
    random = np.random.default_rng((len(name), len(split), index))
    return random.integers(0, 256, (32, 32, 3), np.uint8), int(random.integers(0, len(NAMES[name])))


def write_folder(directory: Path, name: str) -> Path:
    """The unpacked folder, byte by byte as the web page of CIFAR describes it."""
    folder = directory / FOLDERS[name]
    folder.mkdir(parents=True)
    names_file = "batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"
    (folder / names_file).write_text("\n".join(NAMES[name]) + "\n\n")
    (folder / "readme.html").write_text("<html>")
    for (which, split), files in FILES.items():
        for number, file in enumerate(files if which == name else []):
            with (folder / file).open("wb") as opened:
                for index in range(number * EACH, number * EACH + EACH):
                    image, label = image_and_label(name, split, index)
                    opened.write(bytes([label]) if name == "cifar10" else bytes([label // 5, label]))
                    for channel in range(3):
                        for row in range(32):
                            opened.write(bytes(int(level) for level in image[row, :, channel]))
    return folder


def write_archive(directory: Path, name: str) -> Path:
    """The packed form of the same."""
    return pack(write_folder(directory / "unpacked", name), directory / ARCHIVES[name])


def pack(folder: Path, path: Path) -> Path:
    """A .tar.gz of a folder."""
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path
