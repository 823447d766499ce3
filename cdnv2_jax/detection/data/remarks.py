"""What a user should know about annotated images before training or evaluation: counts, in one phrase each."""

import numpy as np

from cdnv2_jax.detection.data.annotations import AnnotationArrays
from cdnv2_jax.detection.data.batches import MOST_BOXES


def training_remarks(arrays: AnnotationArrays, *, keep_empty: bool) -> list[str]:
    """Return what training does not use, and what it uses in part."""
    annotated, targets, skipped = np.diff(arrays.ends), arrays.target_counts(), arrays.crowd | arrays.ignored
    small, unusable = ~arrays.large_enough(), (~skipped).sum() - targets.sum()
    empty = "are background to train on" if keep_empty else "are not trained on (config.data.empty_images=drop)"
    return _phrases(
        {
            f"images without objects {empty}": ((annotated == 0) & ~small).sum(),
            "images with nothing but crowds or unusable boxes are not trained on": (
                (annotated > 0) & (targets == 0) & ~small
            ).sum(),
            "images with a side below 32 pixels are not trained on": small.sum(),
            "boxes are marked as crowds or to be ignored, and not trained on": skipped.sum(),
            "boxes are outside their image, below one pixel or without area, and not trained on": unusable,
            f"images have more than {MOST_BOXES} boxes: a random {MOST_BOXES} are used at a time": (
                targets > MOST_BOXES
            ).sum(),
        }
    )


def evaluation_remarks(arrays: AnnotationArrays) -> list[str]:
    """Return what counts differently, or not at all, in evaluation."""
    if not len(arrays.ids):
        return ["there are no annotations: nothing can be scored"]
    return _phrases(
        {
            "images are without objects": (np.diff(arrays.ends) == 0).sum(),
            "boxes are marked as crowds: detections in them count neither way": arrays.crowd.sum(),
        }
    )


def _phrases(counts: dict[str, int]) -> list[str]:
    """Return each text after its count, unless that is 0."""
    return [f"{count:,} {text}" for text, count in counts.items() if count]
