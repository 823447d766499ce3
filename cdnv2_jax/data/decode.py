"""Encoded image files → pixels."""

import io
import re
import threading
import warnings

import cv2
import numpy as np
from PIL import Image

from cdnv2_jax.errors import UserError, one_line

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
"""Ends the compressed data of a JPEG scan: 0xFF, except stuffed bytes and restart markers (ITU-T T.81, B.1.1)."""

START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"

_WARNING_FILTERS = threading.Lock()

cv2.setNumThreads(0)  # many processes work side by side, where threads of each would only get in the way


class BrokenImage(UserError):
    """An image that cannot be read: corrupt, truncated, empty, too large, or not an image."""

    def __init__(self, name: str, why: str):
        super().__init__(f"{name} cannot be read as an image ({why}): fix or remove it")
        self._arguments = (name, why)

    def __reduce__(self):
        return BrokenImage, self._arguments  # worker processes pickle it


def decode(encoded: bytes, name: str) -> np.ndarray:
    """uint8 [h, w, 3], RGB: bit for bit what Pillow's `Image.open(…).convert("RGB")` gives. Thread-safe.

    So transparency is dropped and the orientation in EXIF ignored, as in the official code. Images of 16 bits per
    channel keep the upper 8, also grey ones, which some versions of Pillow would clip.

    Ordinary JPEG files go through OpenCV, a fifth faster or more, to the same pixels. It fills what is missing of a
    damaged file with grey and does not say so: it only gets files of one scan that are complete. Anything else
    (progressive files, CMYK, trailing bytes) is read or refused by Pillow.

    Raises:
      BrokenImage: it names `name`.
    """
    try:
        image = _open(encoded)
        if image.format == "JPEG" and image.mode in ("RGB", "L") and _is_one_complete_scan(encoded):
            pixels = _decode_jpeg(encoded)
            if pixels is not None and pixels.shape[:2] == (image.height, image.width):
                return pixels
        if image.mode.startswith("I"):
            return _upper_bits(np.asarray(image))
        image.info.pop("transparency", None)  # of a palette's colours; Pillow would warn that it gets lost
        return np.array(image.convert("RGB"))
    except Exception as error:  # damage trips Pillow's readers in many ways: struct.error, IndexError, …
        raise BrokenImage(name, one_line(error)) from error


def encoded_size(encoded: bytes, name: str) -> tuple[int, int]:
    """(height, width) in pixels, from an image file's header alone; BrokenImage as `decode`."""
    try:
        image = _open(encoded)
    except Exception as error:
        raise BrokenImage(name, one_line(error)) from error
    return image.height, image.width


def _decode_jpeg(encoded: bytes) -> np.ndarray | None:
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def _is_one_complete_scan(encoded: bytes) -> bool:
    """Whether a JPEG file has one scan, which goes on to the end of the file, and nothing after it."""
    if not (encoded.startswith(b"\xff\xd8") and encoded.endswith(END_OF_IMAGE)):
        return False
    # A thumbnail in the header has scans too; its end is then found too early, and the file is left to Pillow.
    scan = encoded.find(START_OF_SCAN)
    marker = MARKER.search(encoded, scan + len(START_OF_SCAN)) if scan >= 0 else None
    return marker is not None and marker.start() == len(encoded) - len(END_OF_IMAGE)


def _open(encoded: bytes) -> Image.Image:
    """Reads the header only. Refuses decompression bombs, of which Pillow only warns up to a size."""
    with _WARNING_FILTERS, warnings.catch_warnings():  # it changes the filters of all threads
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(encoded))


def _upper_bits(levels: np.ndarray) -> np.ndarray:
    """Grey [h, w] of 16 bits → uint8 [h, w, 3]."""
    grey = (np.clip(levels, 0, 65535) >> 8).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
