"""One picture of coloured shapes before a background, with COCO annotations of what is in it."""

import dataclasses
import math
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

CLASS_NAMES = ("circle", "square", "triangle", "star", "cross")
CATEGORY_IDS = (1, 3, 7, 18, 90)
"""With gaps, as COCO's."""

SIZES = ((128, 192), (120, 192), (128, 176), (112, 184))
"""(shorter side, longer side) of pictures, pixels."""

MOST_OBJECTS = 6
SMALLEST, LARGEST, LARGEST_SHARE = 16, 96, 0.75
"""The longer side of an object's box, pixels, also as a share of the picture's shorter side."""

LEAST_VISIBLE = 0.6
"""Of every object, however many others lie over it."""

EMPTY, CROWDED = 0.04, 0.06
"""Shares of pictures without any object, and with a crowd."""

ATTEMPTS = 8
FINE = 4
"""Edges are drawn on a grid that many times finer, for soft edges."""


@dataclasses.dataclass
class Scene:
    """Attributes: image, float32 [h, w, 3], 0 … 255; objects, annotations without ids; covers, what of each shows."""

    image: np.ndarray
    objects: list[dict[str, Any]]
    covers: list[tuple[np.ndarray, int]]


def draw_scene(random: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """uint8 [h, w, 3] and annotations (category_id, bbox, area, iscrowd, segmentation); a pure function of `random`."""
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
    """float64 [k, 2]: a class's corners (x, y), turned by `angle` (radians), in a box from (0, 0) of longer side 1."""
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
    """float32 [h, w] in [0, 1]: how much of each pixel lies in a polygon of corners [k, 2] (x, y), all inside."""
    low, high = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
    width, height = high - low
    fine = Image.new("L", (int(width) * FINE, int(height) * FINE))
    points = (corners - low) * FINE - 0.5  # from edges of pixels, where 0 is a picture's border, to their centres
    ImageDraw.Draw(fine).polygon([(float(x), float(y)) for x, y in points], fill=255)
    covered = np.zeros(size, np.float32)
    covered[low[1] : high[1], low[0] : high[0]] = np.asarray(fine.reduce(FINE), np.float32) / 255
    return covered


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """A mask bool [h, w] as COCO's uncompressed run lengths: down the columns, zeros first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def _draw_object(scene: Scene, random: np.random.Generator) -> None:
    """Puts one where it hides nothing too much, or none if no such place is found."""
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
    """Many tiny objects of a class side by side, annotated as one."""
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
    """Of four random colours that which is farthest from what is there now."""
    there = image[mask > 0.5].mean(axis=0)
    colours = random.uniform(0, 255, (4, 3))
    return colours[np.argmax(((colours - there) ** 2).sum(axis=1))]


def _background(size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """float32 [h, w, 3]: a gradient, stripes or clouds between two colours that are not far apart."""
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
