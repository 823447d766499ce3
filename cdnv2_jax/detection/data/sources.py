"""The list of sources of annotated images, and how to open one by name."""

from collections.abc import Mapping
from pathlib import Path

from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.open import Reader, check_name, read_directory
from cdnv2_jax.detection.data import coco_json, tfds_coco
from cdnv2_jax.detection.data.annotations import DetectionSource
from cdnv2_jax.detection.data.shapes import open_shapes
from cdnv2_jax.files import cache_directory

READERS: Mapping[str, Reader[DetectionSource]] = {
    "coco": Reader(coco_json.read_coco, coco_json.LAYOUT),
    "tfds": Reader(tfds_coco.read_tfds_coco, tfds_coco.LAYOUT),
}
SOURCES = ("shapes", *READERS)


def open_source(name: str, *, directory: str, split: Split, shapes: int = 0) -> DetectionSource:
    """Open a source of annotated images.

    Args:
      name: one of `SOURCES`.
      directory: where its files are; for shapes, where they are drawn, "" for the user's cache.
      split: "train" or, held out, "val".
      shapes: number of pictures to draw for each split of "shapes"; 0 for the default.

    Raises:
      UserError: the source is unknown, or its files are missing or damaged.
    """
    check_name(name, SOURCES)
    if name == "shapes":
        return open_shapes(Path(directory) if directory else cache_directory(), split, images=shapes)
    return read_directory(READERS[name], directory, split)
