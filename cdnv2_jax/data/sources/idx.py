"""Fashion-MNIST and MNIST from their IDX files, packed with gzip or not.

The format is described at the end of http://yann.lecun.com/exdb/mnist/ (archived): two zero bytes, the type of the
values (8 for uint8), the number of dimensions, the size of each as a big-endian uint32, and the values.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cdnv2_jax.data.source import PixelSource, Split
from cdnv2_jax.data.sources.files import read_from_folder, read_gzip
from cdnv2_jax.errors import UserError, one_line

CLASS_NAMES: Mapping[str, Sequence[str]] = {
    "fashion_mnist": (
        *("T-shirt or top", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "mnist": tuple("0123456789"),
}
PREFIXES: Mapping[Split, str] = {"train": "train", "val": "t10k"}
FILES = "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the two t10k ones (or unpacked, without .gz)"
LAYOUTS = {
    "fashion_mnist": f"put {FILES} into DIRECTORY; Debian's package dataset-fashion-mnist has them in "
    "/usr/share/datasets/fashion-mnist",
    "mnist": f"put {FILES} into DIRECTORY",
}
UINT8 = 8
MOST_BYTES = 256 << 20  # of a file, packed or not; the largest here has 47 MB
LARGEST_SIDE = 256


def read_idx_images(name: str, directory: Path, split: Split) -> PixelSource:
    """Read the images of a split, grey levels as three equal channels, uint8 [h, w, 3].

    Args:
      name: of `CLASS_NAMES`.
      directory: where the four files are.
      split: "val" is the test set, t10k.

    Raises:
      UserError: files are missing or damaged, or do not belong together.
    """
    prefix, class_names = PREFIXES[split], CLASS_NAMES[name]
    grey = _read(name, directory, f"{prefix}-images-idx3-ubyte", dimensions=3)
    labels = _read(name, directory, f"{prefix}-labels-idx1-ubyte", dimensions=1)
    if len(grey) != len(labels):
        raise UserError(
            f"{directory}: {len(grey):,} {prefix} images but {len(labels):,} labels: download all files again"
        )
    if not grey.size or max(grey.shape[1:]) > LARGEST_SIDE:
        raise UserError(f"{directory}: {prefix} images of shape {list(grey.shape)}: download them again")
    if labels.max() >= len(class_names):
        raise UserError(f"{directory}: a {prefix} label is {labels.max()}, of {len(class_names)} classes of {name}")
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    return PixelSource(pixels, labels.astype(np.int32), class_names, f"{name} {split} image")


def _read(name: str, directory: Path, stem: str, dimensions: int) -> np.ndarray:
    """Return the array of an IDX file of uint8, read-only."""
    file = next((file for file in (directory / stem, directory / f"{stem}.gz") if file.exists()), None)
    if file is None:
        raise UserError(f"{directory} lacks {stem}: {LAYOUTS[name]}")
    if file.suffix == ".gz":
        content = read_gzip(file, MOST_BYTES)
    else:
        content = read_from_folder(directory, {file.name: MOST_BYTES})[file.name]
    try:
        return parse_idx(content, dimensions)
    except ValueError as error:
        raise UserError(f"{file} cannot be read ({one_line(error)}): download it again") from error


def parse_idx(content: bytes, dimensions: int) -> np.ndarray:
    """Return the array that an IDX file of uint8 holds; ValueError unless it has so many dimensions and all values."""
    header = struct.calcsize(f">4B{dimensions}I")
    if len(content) < header:
        raise ValueError(f"{len(content)} bytes, too few for its header")
    *kind, declared = content[:4]
    if kind != [0, 0, UINT8] or declared != dimensions:
        raise ValueError(f"it begins with {content[:4].hex(' ')}, not with 00 00 08 {dimensions:02x}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    values = np.frombuffer(content, np.uint8, offset=header)
    expected = np.prod(shape, dtype=object)
    if len(values) != expected:
        raise ValueError(f"{len(values):,} values for a shape of {list(shape)}")
    return values.reshape(shape)
