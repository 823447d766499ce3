"""A small generated data set of shapes in COCO's format, for a first run, tests and teaching."""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.files import progress_bar
from cdnv2_jax.detection.data.coco_json import CocoSource, read_coco
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import refuse_existing
from cdnv2_jax.paths import as_path, is_remote

TRAIN_IMAGES, VAL_IMAGES, SEED = 4800, 300, 0
NAME = "shapes_1"
"""Name of the directory; the number increases whenever the drawings change."""

QUALITY = 92
FIRST_ID: dict[Split, int] = {"train": 1, "val": 1_000_001}

CLASS_NAMES = ("circle", "square", "triangle", "star", "cross")
CATEGORY_IDS = (1, 3, 7, 18, 90)
"""With gaps, as in COCO."""

SIZES = ((128, 192), (120, 192), (128, 176), (112, 184))
"""(shorter side, longer side) of pictures, pixels."""

MOST_OBJECTS = 6
SMALLEST, LARGEST, LARGEST_SHARE = 16, 96, 0.75
"""Limits on the longer side of an object's box: in pixels, and as a fraction of the picture's shorter side."""

LEAST_VISIBLE = 0.6
"""Fraction of every object that stays visible, however many others overlap it."""

EMPTY, CROWDED = 0.04, 0.06
"""Fractions of pictures without any object, and with a crowd."""

ATTEMPTS = 8
FINE = 4
"""Shapes are drawn on a grid this many times finer, for smooth edges."""


def open_shapes(cache_directory: str | Path, split: Split, *, images: int = 0) -> CocoSource:
    """Open 4,800 training or 300 held-out pictures, drawn into CACHE_DIRECTORY/shapes_1 at first use.

    Args:
      cache_directory: where the pictures are kept.
      split: "train" or "val".
      images: another number of pictures for each split; 0 for the default.

    Raises:
      UserError: the directory cannot be written, or its contents are damaged.
    """
    if is_remote(as_path(cache_directory)):
        raise UserError(
            f"{cache_directory}: shapes are drawn on a disk, not in a bucket: give a directory there, or none"
        )
    directory = Path(cache_directory) / (f"{NAME}_{images}" if images else NAME)
    if not directory.exists():
        write_shapes(directory, train_images=images or TRAIN_IMAGES, val_images=images or VAL_IMAGES, seed=SEED)
    return read_coco(directory, split)


def write_shapes(directory: Path, *, train_images: int, val_images: int, seed: int) -> None:
    """Write DIRECTORY/annotations/instances_{train,val}.json, DIRECTORY/train and DIRECTORY/val, all or nothing.

    The same seed gives the same pictures, however many are drawn. Several processes may do this at the same time: the
    first to finish provides the files, which are identical.

    Args:
      directory: path that does not exist yet.
      train_images, val_images: at least 1 each.
      seed: seed of all randomness.

    Raises:
      UserError: the directory exists or cannot be written.
    """
    if min(train_images, val_images) < 1:
        raise UserError(f"{train_images} and {val_images} images: a data set needs at least one of each split")
    refuse_existing(directory, overwrite=False)
    counts: dict[Split, int] = {"train": train_images, "val": val_images}
    scratch = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        scratch.chmod(0o755)  # like any directory; temporary ones are private to their owner
        total = train_images + val_images
        with progress_bar(f"drawing {total} pictures into {directory}", total) as advance:
            for split, count in counts.items():
                _write_split(scratch, split, count, seed, advance)
        with contextlib.suppress(FileExistsError):
            _move(scratch, directory)
    except OSError as error:
        raise UserError(f"{directory} cannot be written: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _move(scratch: Path, directory: Path) -> None:
    """Rename `scratch`; FileExistsError if another process was faster."""
    try:
        os.rename(scratch, directory)
    except OSError:
        if directory.exists():
            raise FileExistsError(str(directory)) from None
        raise


def _write_split(root: Path, split: Split, count: int, seed: int, advance: Callable[[int], None]) -> None:
    (root / split).mkdir()
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        image, objects = draw_scene(np.random.default_rng([seed, FIRST_ID[split], number]))
        height, width = image.shape[:2]
        image_id = FIRST_ID[split] + number
        name = f"{image_id:012d}.jpg"
        Image.fromarray(image).save(root / split / name, quality=QUALITY)
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        annotations += [{"id": len(annotations) + k, "image_id": image_id, **item} for k, item in enumerate(objects, 1)]
        advance(1)
    content: dict[str, Any] = {
        "info": {"description": f"Drawn shapes, {split}, seed {seed}"},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "shape"}
            for number, name in zip(CATEGORY_IDS, CLASS_NAMES, strict=True)
        ],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


@dataclasses.dataclass
class Scene:
    """A picture being drawn.

    Attributes:
      image: float32 [h, w, 3], 0 … 255.
      objects: annotations without ids.
      covers: for each object, its visible pixels, bool [h, w], and its total number of pixels.
    """

    image: np.ndarray
    objects: list[dict[str, Any]]
    covers: list[tuple[np.ndarray, int]]


def draw_scene(random: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Draw pixels, uint8 [h, w, 3], and annotations (category_id, bbox, area, iscrowd, segmentation) from `random`."""
    short, long = SIZES[random.integers(len(SIZES))]
    size = (short, long) if random.random() < 0.6 else (long, short)
    scene = Scene(_background(size, random), [], [])
    if random.random() >= EMPTY:
        if random.random() < CROWDED / (1 - EMPTY):
            _draw_crowd(scene, random)
        for _ in range(random.integers(1, MOST_OBJECTS + 1)):
            _draw_object(scene, random)
    noise = random.normal(0, random.uniform(2, 9), (*size, 3))
    return np.clip(scene.image + noise, 0, 255).astype(np.uint8), scene.objects


def outline(label: int, angle: float) -> np.ndarray:
    """Return corners x, y of a class, float64 [k, 2], rotated by `angle` radians, in a box at (0, 0), longer side 1."""
    name = CLASS_NAMES[label]
    if name == "cross":
        arm = 0.34
        quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
        right_angle = np.array([[0, 1], [-1, 0]])
        corners = np.concatenate([quarter @ np.linalg.matrix_power(right_angle, k) for k in range(4)])
    else:
        count = {"circle": 48, "square": 4, "triangle": 3, "star": 10}[name]
        around = 2 * np.pi * np.arange(count) / count
        radius = np.where(np.arange(count) % 2, 0.42, 1.0) if name == "star" else np.ones(count)
        corners = radius[:, None] * np.stack([np.cos(around), np.sin(around)], axis=1)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    corners = corners @ turn
    corners -= corners.min(axis=0)
    return corners / corners.max()


def coverage(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return how much of each pixel is inside a polygon of corners [k, 2] (x, y): float32 [h, w] in [0, 1]."""
    low, high = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
    width, height = high - low
    fine = Image.new("L", (int(width) * FINE, int(height) * FINE))
    points = (corners - low) * FINE - 0.5  # shifts 0 from the picture's border to the first pixel's centre
    ImageDraw.Draw(fine).polygon([(float(x), float(y)) for x, y in points], fill=255)
    covered = np.zeros(size, np.float32)
    covered[low[1] : high[1], low[0] : high[0]] = np.asarray(fine.reduce(FINE), np.float32) / 255
    return covered


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """Encode a mask, bool [h, w], as COCO's uncompressed run lengths: down the columns, zeros first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def _draw_object(scene: Scene, random: np.random.Generator) -> None:
    """Draw an object where it does not hide others too much, or none if no such place is found."""
    height, width = scene.image.shape[:2]
    label = int(random.integers(len(CLASS_NAMES)))
    largest = min(LARGEST, LARGEST_SHARE * min(height, width))
    extent = SMALLEST * (largest / SMALLEST) ** random.random()
    unit = outline(label, random.uniform(0, 2 * np.pi)) * extent
    for _ in range(ATTEMPTS):
        corners = np.round(unit + random.random(2) * ((width, height) - unit.max(axis=0)), 2)
        mask = coverage(corners, (height, width))
        if _hides_too_much(scene, mask > 0.5):
            continue
        _paint(scene.image, mask, _contrasting(scene.image, mask, random))
        _cover(scene, mask > 0.5)
        low, high = corners.min(axis=0), corners.max(axis=0)
        scene.objects.append(
            {
                "category_id": CATEGORY_IDS[label],
                "bbox": np.round([*low, *(high - low)], 2).tolist(),
                "area": round(_polygon_area(corners), 2),
                "iscrowd": 0,
                "segmentation": [corners.ravel().tolist()],
            }
        )
        return


def _draw_crowd(scene: Scene, random: np.random.Generator) -> None:
    """Draw many tiny objects of one class side by side, annotated as one crowd."""
    height, width = scene.image.shape[:2]
    label = int(random.integers(len(CLASS_NAMES)))
    region = random.uniform(40, 64, 2)
    corner = random.random(2) * ((width, height) - region)
    everything = np.zeros((height, width), bool)
    for _ in range(random.integers(12, 21)):
        unit = outline(label, random.uniform(0, 2 * np.pi)) * random.uniform(7, 10)
        corners = corner + unit + random.random(2) * (region - unit.max(axis=0))
        mask = coverage(corners, (height, width))
        _paint(scene.image, mask, _contrasting(scene.image, mask, random))
        everything |= mask > 0.5
    _cover(scene, everything)
    rows, columns = np.flatnonzero(everything.any(axis=1)), np.flatnonzero(everything.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    scene.objects.append(
        {
            "category_id": CATEGORY_IDS[label],
            "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
            "area": int(everything.sum()),
            "iscrowd": 1,
            "segmentation": run_lengths(everything),
        }
    )


def _hides_too_much(scene: Scene, mask: np.ndarray) -> bool:
    return any((shown & ~mask).sum() < LEAST_VISIBLE * whole for shown, whole in scene.covers)


def _cover(scene: Scene, mask: np.ndarray) -> None:
    scene.covers = [(shown & ~mask, whole) for shown, whole in scene.covers] + [(mask, int(mask.sum()))]


def _paint(image: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> None:
    touched = mask > 0
    image[touched] += mask[touched, None] * (colour.astype(np.float32) - image[touched])


def _contrasting(image: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the one of four random colours that differs most from the current pixels."""
    there = image[mask > 0.5].mean(axis=0)
    colours = random.uniform(0, 255, (4, 3))
    return colours[np.argmax(((colours - there) ** 2).sum(axis=1))]


def _background(size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Draw a gradient, stripes or clouds between two similar colours: float32 [h, w, 3]."""
    height, width = size
    first = random.uniform(40, 215, 3)
    second = np.clip(first + random.normal(0, 35, 3), 0, 255)
    y, x = np.mgrid[:height, :width]
    direction = random.uniform(0, 2 * np.pi)
    along = x * math.cos(direction) + y * math.sin(direction)
    kind = random.integers(3)
    if kind == 0:
        mix = (along - along.min()) / np.ptp(along)
    elif kind == 1:
        mix = 0.5 + 0.5 * np.sin(along * 2 * np.pi / random.uniform(6, 40))
    else:
        coarse = random.random((random.integers(3, 10), random.integers(3, 10)))
        mix = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return (first + mix[:, :, None] * (second - first)).astype(np.float32)


def _polygon_area(corners: np.ndarray) -> float:
    x, y = corners.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
