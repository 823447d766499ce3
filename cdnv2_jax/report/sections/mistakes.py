"""What a classifier took for what."""

from collections.abc import Callable, Sequence

import numpy as np

from cdnv2_jax.report.confusion import Predictions, confusion_matrix, most_confused
from cdnv2_jax.report.confusion_plot import draw_confusion
from cdnv2_jax.report.data_uri import SMALL, image_uri
from cdnv2_jax.report.page import Photograph, Section, Table
from cdnv2_jax.report.sections.drawing import drawing

MATRIX_CLASSES = 40
"""With more classes a matrix can no longer be read on a page; the most confused pairs can."""

PAIRS, PICTURES, LONGEST_SIDE = 10, 12, 320


def mistakes_section(
    predictions: Predictions,
    names: Sequence[str],
    picture: Callable[[int], np.ndarray | None] | None,
    notes: Sequence[str],
) -> Section:
    """The confusion matrix, the most confused pairs and the most confident mistakes.

    Args:
      predictions: on the held-out images.
      names: of the classes.
      picture: position of an image → its pixels, uint8 [h, w, 3], or None for one that cannot be read; None where the
        images are not at hand.
      notes: further paragraphs.
    """
    wrong = predictions.mistakes
    text = [f"{len(wrong):,} of {len(predictions.labels):,} held-out images were taken for something else.", *notes]
    pairs = [(names[label], names[told], f"{n:,}") for label, told, n in most_confused(predictions, PAIRS)]
    tables = [Table("Most confused pairs", ("shown", "taken for", "images"), pairs)] if pairs else []
    drawings = []
    if len(names) <= MATRIX_CLASSES:
        counts = confusion_matrix(predictions, len(names))
        drawings.append(
            drawing(
                lambda figure: draw_confusion(figure, counts, names),
                key="confusion",
                height=4.6,
                label=f"Confusion matrix of {len(names)} classes; {len(wrong):,} images lie off its diagonal.",
                caption="Rows are what images show, columns what they were taken for; stronger means a larger share "
                "of the row (by its square root, so that rare mistakes can be seen).",
            )
        )
    photographs = []
    if picture is not None:
        seen = [(int(at), picture(int(predictions.images[at]))) for at in wrong[:PICTURES]]
        photographs = [_photograph(predictions, at, names, pixels) for at, pixels in seen if pixels is not None]
        if photographs:
            text.append("Below the most confident mistakes, with the probability that the network gave its answer.")
    return Section("mistakes", "Mistakes", text, tables, drawings, photographs)


def _photograph(predictions: Predictions, at: int, names: Sequence[str], pixels: np.ndarray) -> Photograph:
    shown, told = names[predictions.labels[at]], names[predictions.predicted[at]]
    image = int(predictions.images[at])
    caption = f"{shown} taken for {told}, {predictions.probabilities[at]:.0%}"
    uri = image_uri(pixels, longest=LONGEST_SIDE)
    return Photograph(uri, f"Held-out image {image}: {caption}", caption, pixelated=max(pixels.shape[:2]) <= SMALL)
