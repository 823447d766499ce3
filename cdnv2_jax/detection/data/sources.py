"""Sources of annotated images; `open_source` knows them all."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from cdnv2_jax.data.source import Split
from cdnv2_jax.detection.data.annotations import DetectionSource
from cdnv2_jax.detection.data.coco_json import read_coco
from cdnv2_jax.detection.data.shapes import open_shapes
from cdnv2_jax.detection.data.tfds_coco import read_tfds_coco
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import cache_directory

READERS: Mapping[str, Callable[[Path, Split], DetectionSource]] = {"coco": read_coco, "tfds": read_tfds_coco}
SOURCES = ("shapes", *READERS)


def open_source(name: str, *, directory: str, split: Split, shapes: int = 0) -> DetectionSource:
    """The annotated images of a source.

    Args:
      name: one of `SOURCES`.
      directory: where its files are; of shapes where they are drawn, "" for the user's cache.
      split: "train" or, held out, "val".
      shapes: how many shapes to draw to train on; 0 for the usual number.

    Raises:
      UserError: no such source, or nothing or something damaged in the directory.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(SOURCES)}"
        raise UserError(f"there is no source {name!r} for detection: {hint}")
    if name == "shapes":
        return open_shapes(Path(directory) if directory else cache_directory(), split, images=shapes)
    if not directory:
        raise UserError(f"config.data.directory is empty: it says where the files of {name!r} lie")
    try:
        return READERS[name](Path(directory), split)
    except OSError as error:
        raise UserError(f"{error.filename or directory} cannot be read: {error.strerror or error}") from error
