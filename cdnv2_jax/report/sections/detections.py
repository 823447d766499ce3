"""What a detector found on some of the held-out images."""

from collections.abc import Sequence

import numpy as np

from cdnv2_jax.report.data_uri import image_uri
from cdnv2_jax.report.page import Photograph, Section

LONGEST_SIDE = 640


def detections_section(pictures: Sequence[np.ndarray], notes: Sequence[str]) -> Section:
    """Images with frames drawn on them, uint8 [h, w, 3] each (see `report/detections.py`); notes: paragraphs."""
    label = "Held-out image {} with the found objects framed and named, true ones in white."
    photographs = [
        Photograph(image_uri(pixels, longest=LONGEST_SIDE), label.format(number), f"Held-out image {number}")
        for number, pixels in enumerate(pictures, start=1)
    ]
    text = ["Frames and names are what was found, with its score in per cent; white frames are the true objects."]
    return Section("detections", "Detections", [*(text if photographs else []), *notes], photographs=photographs)
