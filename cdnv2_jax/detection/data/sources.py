"""The list of sources of annotated images, and how to open one by name."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.open import Reader, check_name, read_directory
from cdnv2_jax.detection.data import coco_json, tfds_coco
from cdnv2_jax.detection.data.annotations import AnnotationArrays, DetectionSource
from cdnv2_jax.detection.data.batches import MOST_BOXES
from cdnv2_jax.detection.data.shapes import open_shapes
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import cache_directory

LAYOUTS: Mapping[str, str] = {"coco": coco_json.LAYOUT, "tfds": tfds_coco.LAYOUT}
SOURCES = ("shapes", *LAYOUTS)


def open_source(
    name: str,
    *,
    directory: str,
    split: Split,
    annotations: str = "",
    upright: bool = True,
    keep_empty: bool = False,
    shapes: int = 0,
) -> DetectionSource:
    """Open a source of annotated images.

    Args:
      name: one of `SOURCES`.
      directory: where its files are; for shapes, where they are drawn, "" for the user's cache.
      split: "train" or, held out, "val".
      annotations: JSON file of "coco", absolute or from the directory; "" to look for it.
      upright: whether the images were annotated as their EXIF orientation turns them, not as stored.
      keep_empty: whether images without objects will be trained on, for the source's remarks.
      shapes: number of pictures to draw for each split of "shapes"; 0 for the default.

    Raises:
      UserError: the source is unknown, its files are missing or damaged, or an image has another size than annotated;
        some images are looked at, the others when they are read.
    """
    check_name(name, SOURCES)
    if annotations and name != "coco":
        raise UserError(f"config.data.{split}_annotations is for the source 'coco', not for {name!r}: remove it")
    if name == "shapes":
        source = open_shapes(directory or cache_directory(), split, images=shapes)
    elif name == "tfds":
        read: Callable[[Path, Split], DetectionSource] = partial(tfds_coco.read_tfds_coco, upright=upright)
        source = read_directory(Reader(read, LAYOUTS[name]), directory, split)
    else:
        read = partial(coco_json.read_coco, annotations=annotations)
        source = read_directory(Reader(read, LAYOUTS[name]), directory, split)
    source.upright = upright
    source.check_sizes()
    train = split == "train"
    found = training_remarks(source.arrays, keep_empty=keep_empty) if train else evaluation_remarks(source.arrays)
    source.remarks = [*source.remarks, *found]
    return source


def training_remarks(arrays: AnnotationArrays, *, keep_empty: bool) -> list[str]:
    """Return what training does not use, and what it uses in part."""
    annotated, targets, skipped = np.diff(arrays.ends), arrays.target_counts(), arrays.crowd | arrays.ignored
    large, small = arrays.large_enough(), ~arrays.large_enough()
    unusable = (~skipped).sum() - targets.sum()
    without = "background to train on" if keep_empty else "not trained on (config.data.empty_images=drop)"
    return _phrases(
        (((annotated == 0) & large).sum(), "image", f"without objects: {without}"),
        (
            ((annotated > 0) & (targets == 0) & large).sum(),
            "image",
            "with crowds or unusable boxes alone: not trained on",
        ),
        (small.sum(), "image", "with a side below 32 pixels: not trained on"),
        (skipped.sum(), "box", "marked as crowd or to be ignored: not trained on"),
        (unusable, "box", "outside the image, below one pixel or without area: not trained on"),
        ((targets > MOST_BOXES).sum(), "image", f"with more than {MOST_BOXES} boxes: a random {MOST_BOXES} at a time"),
    )


def evaluation_remarks(arrays: AnnotationArrays) -> list[str]:
    """Return what counts differently, or not at all, in evaluation."""
    if not len(arrays.ids):
        return ["no annotations: nothing can be scored"]
    return _phrases(
        ((np.diff(arrays.ends) == 0).sum(), "image", "without objects"),
        (arrays.crowd.sum(), "box", "marked as crowd: detections in it count neither way"),
    )


def _phrases(*counted: tuple[int, str, str]) -> list[str]:
    """Return a phrase for each (count, noun, text), unless the count is 0."""
    plural = {"image": "images", "box": "boxes"}
    return [f"{count:,} {noun if count == 1 else plural[noun]} {text}" for count, noun, text in counted if count]
