"""What a user should know about annotated images before training or evaluation: counts, in one phrase each."""

import numpy as np

from cdnv2_jax.detection.data.annotations import AnnotationArrays
from cdnv2_jax.detection.data.batches import MOST_BOXES


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
