"""Image folders to read."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def colour(name: str) -> tuple[int, int, int]:
    """The one colour of the image `write_images` writes under that name."""
    red, green, blue, _ = zlib.crc32(name.encode()).to_bytes(4, "big")
    return red, green, blue


def write_images(directory: Path, classes: Mapping[str, Sequence[str]]) -> None:
    """A folder per class, and in it an image of one colour under each name."""
    for folder, names in classes.items():
        (directory / folder).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (20, 12), colour(name)).save(directory / folder / name)


def write_noise(directory: Path, classes: Sequence[str], each: int, *, seed: int = 0) -> None:
    """A folder per class with `each` PNG images of smooth noise, of many sizes."""
    random = np.random.default_rng(seed)
    for folder in classes:
        (directory / folder).mkdir(parents=True)
        for number in range(each):
            coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
            width, height = (int(side) for side in random.integers(180, 400, 2))
            coarse.resize((width, height)).save(directory / folder / f"{number}.png")
