"""The classes of a detector and those of the images that it is evaluated on, matched before anything runs."""

from collections.abc import Sequence

from cdnv2_jax.detection.data.annotations import DetectionSource, Id
from cdnv2_jax.detectors.detector import Classes
from cdnv2_jax.errors import UserError, shorten

LISTED = 6
"""Classes that a message names before it counts the others."""


def match_held_out(train: DetectionSource, held_out: DetectionSource) -> tuple[list[Id | None], list[str]]:
    """Return for each training label the category id in the held-out images, None if they lack it; and remarks.

    Raises:
      UserError: the held-out images have a category that the training images lack, or one of another id or name; or
        they have no annotations.
    """
    if not held_out.is_annotated:
        raise UserError(
            "the held-out images have no annotations, so that training could not be evaluated: annotate them, or "
            "name another file in config.data.val_annotations"
        )
    known, found = (list(zip(map(str, s.category_ids), s.class_names, strict=True)) for s in (train, held_out))
    if strange := [one for one in found if one not in known]:
        rest = [one for one in known if one not in found]
        lacking = f", {_listed(rest)} only in train" if rest else ""
        raise UserError(
            f"train and val have different categories: {_listed(strange)} only in val{lacking}: "
            "give both the same ids and names"
        )
    return by_name(train.class_names, held_out)


def match_checkpoint(
    classes: Classes, images: DetectionSource, checkpoint: object
) -> tuple[list[Id | None], list[str]]:
    """Return for each label of a detector the category id of the same name, None if the images lack it; and remarks.

    Args:
      classes: the detector's.
      images: the images to evaluate it on; ids may differ from the detector's.
      checkpoint: its path, for messages.

    Raises:
      UserError: the images have a category whose name the detector does not know.
    """
    if strange := [name for name in images.class_names if name not in classes.names]:
        raise UserError(
            f"{checkpoint} does not know {_listed(strange)} of the images' categories; it detects "
            f"{_listed(classes.names)}: use its names for the same objects, and remove the others"
        )
    return by_name(classes.names, images)


def by_name(names: Sequence[str], images: DetectionSource) -> tuple[list[Id | None], list[str]]:
    """Return the category id of each name, None if the images lack it; and a remark on those that they lack."""
    ids = dict(zip(images.class_names, images.category_ids, strict=True))
    lacking = [name for name in names if name not in ids]
    remark = f"{len(lacking)} of {len(names)} classes are no category of the held-out images and not evaluated: "
    return [ids.get(name) for name in names], [remark + _listed(lacking)] if lacking else []


def _listed(classes: Sequence[object]) -> str:
    """Return names, or ids with names, for a message."""
    return shorten([f"{one[0]} {one[1]!r}" if isinstance(one, tuple) else repr(one) for one in classes], LISTED)
