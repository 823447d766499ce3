"""A folder per class with image files in it, prepared for evaluation exactly as the official code does."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from cdnv2_jax.data.batches import Batch
from cdnv2_jax.errors import UserError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
RESIZE_RATIO = 256 / 224  # the shorter side before the crop, relative to the crop


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """Attributes: classes (names, sorted: their positions are the labels); paths and labels of all images."""

    classes: list[str]
    paths: list[Path]
    labels: np.ndarray


def find_images(directory: Path) -> ImageFolder:
    """Lists `directory`/CLASS/IMAGE; UserError when there is no such folder or nothing in it."""
    if not directory.is_dir():
        raise UserError(f"data.directory {str(directory)!r} is no directory: put a folder per class with images there")
    classes = sorted(entry.name for entry in directory.iterdir() if entry.is_dir())
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((directory / name).iterdir())
        if path.suffix.lower() in EXTENSIONS
    ]
    if not found:
        raise UserError(f"{directory} holds no images: it needs a folder per class with .jpg or .png files in it")
    paths, labels = zip(*found, strict=True)
    return ImageFolder(classes, list(paths), np.array(labels, np.int32))


def evaluation_image(image: Image.Image, size: int, interpolation: Literal["bilinear", "bicubic"]) -> np.ndarray:
    """Resizes the shorter side to size · 256 / 224, crops the centre, normalises: float32 [size, size, 3].

    Rounding follows torchvision: the longer side is cut to whole pixels, the crop's corner rounded to even.
    """
    image = image.convert("RGB")
    width, height = image.size
    shorter = round(size * RESIZE_RATIO)
    scaled = (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    image = image.resize(scaled, method)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    return (pixels - MEAN) / STD


def evaluation_batches(
    folder: ImageFolder, size: int, interpolation: Literal["bilinear", "bicubic"], batch_size: int
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Every image once, in order: ((images, labels), real) as `padded_batches` gives them."""
    for start in range(0, len(folder.paths), batch_size):
        paths = folder.paths[start : start + batch_size]
        images = np.zeros((batch_size, size, size, 3), np.float32)
        labels = np.zeros(batch_size, np.int32)
        for row, path in enumerate(paths):
            images[row] = evaluation_image(_open(path), size, interpolation)
        labels[: len(paths)] = folder.labels[start : start + len(paths)]
        yield (images, labels), np.arange(batch_size) < len(paths)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): mend or remove it") from error
