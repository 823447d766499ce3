"""Photographs with an EXIF orientation: boxes are where Pillow's own `exif_transpose` shows their objects."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from cdnv2_jax import UserError
from cdnv2_jax.data.batches import Share
from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.detection.data.batches import DetectionEvaluationRow, DetectionTrainingRow
from cdnv2_jax.detection.data.coco_json import read_coco
from cdnv2_jax.detection.data.sources import open_source
from cdnv2_jax.detection.pictures import example_pictures
from tests.tables import table

HEIGHT, WIDTH = 64, 96
BOX = [12, 8, 24, 16]
RED, GREY = (230, 20, 20), (90, 90, 90)


def _photograph(file: Path, orientation: int, *, stored: bool) -> tuple[int, int]:
    """Write a photograph with a red object; return (height, width) as annotated: as stored or, by default, as shown.

    The object is at BOX of what is annotated.
    """
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = (WIDTH, HEIGHT) if orientation >= 5 and not stored else (HEIGHT, WIDTH)
    pixels = np.full((*size, 3), GREY, np.uint8)
    numbered = Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.int32).reshape(size))
    numbered.getexif()[0x0112] = orientation
    numbers = np.asarray(numbered if stored else ImageOps.exif_transpose(numbered))
    x, y, width, height = BOX
    pixels.reshape(-1, 3)[numbers[y : y + height, x : x + width].ravel()] = RED
    Image.fromarray(pixels).save(file, exif=exif, quality=95)
    return numbers.shape[0], numbers.shape[1]


def _write(directory: Path, orientation: int, *, stored: bool = False, **size: int) -> str:
    for folder in ("annotations", "train"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    height, width = _photograph(directory / "train" / "photograph.jpg", orientation, stored=stored)
    image: dict[str, Any] = {"id": 1, "file_name": "photograph.jpg", "height": height, "width": width}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX}
    made = {"images": [image | size], "annotations": [box], "categories": [{"id": 1, "name": "red"}]}
    (directory / "annotations" / "instances_train.json").write_text(json.dumps(made))
    return str(directory)


def _assert_red(image: np.ndarray, box: np.ndarray) -> None:
    """The box holds red alone, and all of it, but for what JPEG and resizing blur."""
    red = (image[..., 0].astype(int) - image[..., 1]) > 70
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    np.testing.assert_allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], box, atol=1.5)


CASES = [(orientation, stored) for orientation in range(1, 9) for stored in (False, True)]


@table("orientation, stored", CASES)
def test_boxes_are_on_their_objects(orientation: int, stored: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Training, evaluation and pictures; with the field's other value, of what was annotated on the stored pixels."""
    directory = _write(tmp_path_factory.mktemp("data"), orientation, stored=stored)
    source = open_source("coco", directory=directory, split="train", upright=not stored)
    corners, preparation = np.array([BOX[0], BOX[1], BOX[0] + BOX[2], BOX[1] + BOX[3]]), CanvasPreparation(64, 96)
    assert source[0].pixels().shape == (source[0].height, source[0].width, 3)
    trained = DetectionTrainingRow(source, Share(1), 0, preparation, flips=False)(0)
    _assert_red(trained["image"], trained["boxes"][0])
    evaluated = DetectionEvaluationRow(source, Share(1), preparation)(0)
    _assert_red(evaluated["image"], corners * np.tile(evaluated["scale"], 2))
    (picture,) = example_pictures(source, [])
    _assert_red(picture, corners * (picture.shape[0] // source[0].height))


@table(
    "written, upright, complaint",
    [
        (
            {"orientation": 6, "stored": True},
            True,
            "for 96 × 64: it is read as its EXIF orientation says, so set .*=False",
        ),
        ({"orientation": 6}, False, "for 96 × 64: it is read as stored, so set config.data.exif_orientation=True"),
        (
            {"orientation": 1, "height": 65},
            True,
            "96 × 64 pixels, its annotations are for 96 × 65: use the original",
        ),
        ({"orientation": 1, "height": 96, "width": 64}, True, "annotations are for 64 × 96: use the original image"),
    ],
)
def test_other_sizes_are_refused(
    written: dict[str, Any], upright: bool, complaint: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """When the data are opened, before anything is trained, and when an image is read."""
    directory = _write(tmp_path_factory.mktemp("data"), **written)
    with pytest.raises(UserError, match=complaint):
        open_source("coco", directory=directory, split="train", upright=upright)
    source = read_coco(Path(directory), "train")
    source.upright = upright
    with pytest.raises(UserError, match=complaint):
        source[0].pixels()
