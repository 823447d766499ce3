"""A small data set in COCO's format that is drawn, not photographed: for a first run, for tests, for teaching."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cdnv2_jax.data.progress import progress_bar
from cdnv2_jax.data.source import Split
from cdnv2_jax.detection.data.coco_json import CocoSource, read_coco
from cdnv2_jax.detection.data.drawn_scene import CATEGORY_IDS, CLASS_NAMES, draw_scene
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import refuse_existing

TRAIN_IMAGES, VAL_IMAGES, SEED = 4800, 300, 0
SHORT_SIDE, LONG_SIDE = 128, 192
"""What these pictures are resized to."""

NAME = "shapes_1"
"""Of the directory; the number grows when what is drawn changes."""

QUALITY = 92
FIRST_ID: dict[Split, int] = {"train": 1, "val": 1_000_001}


def open_shapes(cache_directory: str | Path, split: Split, *, images: int = 0) -> CocoSource:
    """4,800 pictures to train on or 300 held out, drawn into CACHE_DIRECTORY/shapes_1 when they are first asked for.

    Args:
      cache_directory: where they are kept.
      split: "train" or "val".
      images: another number of pictures to train on, and to hold out; 0 for the usual ones.

    Raises:
      UserError: the directory cannot be written, or what is there has been damaged.
    """
    directory = Path(cache_directory) / (f"{NAME}_{images}" if images else NAME)
    if not directory.exists():
        write_shapes(directory, train_images=images or TRAIN_IMAGES, val_images=images or VAL_IMAGES, seed=SEED)
    return read_coco(directory, split)


def write_shapes(directory: Path, *, train_images: int, val_images: int, seed: int) -> None:
    """Writes DIRECTORY/annotations/instances_{train,val}.json, DIRECTORY/train and DIRECTORY/val, or nothing.

    The same pictures for the same seed, whatever their number. Several processes may do so at the same time: they
    write the same, and the first to finish provides it.

    Args:
      directory: where nothing is yet.
      train_images, val_images: at least 1 each.
      seed: of everything random.

    Raises:
      UserError: something is there already, or it cannot be written.
    """
    if min(train_images, val_images) < 1:
        raise UserError(f"{train_images} and {val_images} images: a data set needs at least one of each split")
    refuse_existing(directory, overwrite=False)
    counts: dict[Split, int] = {"train": train_images, "val": val_images}
    scratch = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        scratch.chmod(0o755)  # as any other directory; temporary ones are their owner's alone
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
    """FileExistsError when another process was faster."""
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
