"""The list of sources of annotated images, and how to open one by name."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.open import Reader, check_name, read_directory
from cdnv2_jax.detection.data import coco_json, tfds_coco
from cdnv2_jax.detection.data.annotations import DetectionSource
from cdnv2_jax.detection.data.remarks import evaluation_remarks, training_remarks
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
        source = open_shapes(Path(directory) if directory else cache_directory(), split, images=shapes)
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
