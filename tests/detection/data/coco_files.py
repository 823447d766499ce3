"""A tiny data set in COCO's format: a landscape, a portrait, an empty image; gaps in ids; every odd kind of box."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CONTENT: dict[str, Any] = {
    "images": [
        {"id": 42, "file_name": "landscape.png", "height": 64, "width": 96},
        {"id": 7, "file_name": "portrait.png", "height": 80, "width": 50},
        {"id": 9, "file_name": "empty.png", "height": 40, "width": 60},
    ],
    "categories": [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
    # Not in the order of the images, as COCO's are not.
    "annotations": [
        {"id": 15, "image_id": 7, "category_id": 90, "bbox": [20, 30, 10, 40], "area": 380.5, "iscrowd": 0},
        {"id": 11, "image_id": 42, "category_id": 3, "bbox": [10, 5, 20, 10], "area": 150, "iscrowd": 0},
        {"id": 12, "image_id": 42, "category_id": 1, "bbox": [80.5, 50.25, 30, 40], "area": 200},
        {"id": 13, "image_id": 42, "category_id": 90, "bbox": [0, 0, 40, 30], "area": 900, "iscrowd": 1},
        {"id": 14, "image_id": 7, "category_id": 90, "bbox": [5, 5, 0, 10], "area": 0, "iscrowd": 0},
        {"id": 16, "image_id": 7, "category_id": 1, "bbox": [50, 10, 10, 10], "area": 100, "iscrowd": 0},
        {"id": 17, "image_id": 7, "category_id": 1, "bbox": [5, 5, 0.5, 10], "area": 5, "iscrowd": 0},
        {"id": 18, "image_id": 7, "category_id": 1, "bbox": [5, 5, 9, 10], "area": 90, "iscrowd": 0, "ignore": 1},
    ],
}
"""The second of image 42 reaches beyond it and has no `iscrowd`; 14 has no area, 16 touches its image from outside."""


def content() -> dict[str, Any]:
    """A copy to change."""
    return copy.deepcopy(CONTENT)


def colour_of(image_id: Any) -> tuple[int, int, int]:
    return image_id, 2 * image_id, 100


def write(directory: Path, made: dict[str, Any], *, split: str = "train2017") -> Path:
    """The annotations and an image of one colour, `colour_of`, for each; returns the file of annotations."""
    (directory / split).mkdir(parents=True, exist_ok=True)
    for image in made["images"]:
        pixels = np.full((image["height"], image["width"], 3), colour_of(image["id"]), np.uint8)
        Image.fromarray(pixels).save(directory / split / image["file_name"])
    file = directory / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(made))
    return file
