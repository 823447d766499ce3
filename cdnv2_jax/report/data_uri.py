"""Pixels as an address that holds them, so that a page needs no other file."""

import base64
import io

import numpy as np
from PIL import Image

SMALL = 64  # pixels; images of that size are kept as they are, larger ones need not be exact


def image_uri(pixels: np.ndarray, *, longest: int) -> str:
    """The image as a "data:" address: a PNG of a small one, a JPEG of any other.

    Args:
      pixels: uint8 [h, w, 3].
      longest: side in pixels; a larger image is made smaller.
    """
    image, data = Image.fromarray(pixels), io.BytesIO()
    if max(image.size) <= SMALL:
        image.save(data, "png")
        kind = "png"
    else:
        image.thumbnail((longest, longest))
        image.save(data, "jpeg", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
