"""IDX files, written by the format's own description."""

import gzip
import struct
from pathlib import Path

import numpy as np


def idx(values: np.ndarray) -> bytes:
    """Return an IDX file of uint8 values of any shape."""
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_idx_images(directory: Path, *, train: int = 12, held_out: int = 5, packed: bool = True) -> Path:
    """Write the four files of an MNIST-like data set with random images of 6×4 pixels and labels 0, 1, 2 …"""
    directory.mkdir()
    random = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", held_out)):
        images = random.integers(0, 256, (count, 6, 4), np.uint8)
        for stem, values in (("images-idx3", images), ("labels-idx1", np.arange(count, dtype=np.uint8) % 10)):
            content, name = idx(values), f"{prefix}-{stem}-ubyte"
            if packed:
                (directory / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (directory / name).write_bytes(content)
    return directory
