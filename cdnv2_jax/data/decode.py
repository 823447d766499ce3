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
"""What ends the compressed data of a JPEG scan: 0xFF but for stuffed bytes and restart markers (ITU-T T.81, B.1.1)."""

START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"

_WARNING_FILTERS = threading.Lock()


class BrokenImage(UserError):
    """An image that cannot be read: corrupt, cut off, empty, too large, or none at all."""

    def __init__(self, name: str, why: str):
        super().__init__(f"{name} cannot be read as an image ({why}): mend or remove it")
        self._arguments = (name, why)

    def __reduce__(self):
        return BrokenImage, self._arguments  # worker processes send it by pickling


def decode(encoded: bytes, name: str) -> np.ndarray:
    """uint8 [h, w, 3], RGB, bit for bit what Pillow's `Image.open(…).convert("RGB")` gives.

    So transparency is dropped and the orientation in EXIF not looked at, as in the official code. Images of 16 bits
    per channel keep the upper 8, also grey ones, which some versions of Pillow would clip. Thread-safe.

    Raises:
      BrokenImage: it names `name`.
    """
    try:
        image = _open(encoded)
        if image.mode.startswith("I"):
            return _upper_bits(np.asarray(image))
        image.info.pop("transparency", None)  # of a palette's colours; Pillow would warn that it gets lost
        return np.array(image.convert("RGB"))
    except Exception as error:  # damage trips Pillow's readers in many ways: struct.error, IndexError, …
        raise BrokenImage(name, one_line(error)) from error


def decode_fast(encoded: bytes, name: str) -> np.ndarray:
    """As `decode`, but ordinary JPEG files go through OpenCV, a fifth faster or more, to the same pixels.

    OpenCV fills what is missing of a damaged file with grey and says nothing. So it only gets files of one scan whose
    first marker after that scan is the file's end; whatever else there is (progressive files, CMYK, trailing bytes)
    `decode` reads or refuses.

    Raises:
      BrokenImage: it names `name`.
    """
    if _is_plain_jpeg(encoded):
        try:
            image = _open(encoded)
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                data = np.frombuffer(encoded, np.uint8)
                pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
                if pixels is not None and pixels.shape[:2] == (image.height, image.width):
                    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
        except Exception:
            pass  # `decode` says what is wrong, or reads it after all
    return decode(encoded, name)


def encoded_size(encoded: bytes, name: str) -> tuple[int, int]:
    """(height, width) in pixels, from an image file's header alone; BrokenImage as `decode`."""
    try:
        image = _open(encoded)
    except Exception as error:
        raise BrokenImage(name, one_line(error)) from error
    return image.height, image.width


def _is_plain_jpeg(encoded: bytes) -> bool:
    """Whether this is a JPEG file with one scan that goes on to the end of the file, and nothing after it."""
    if not (encoded.startswith(b"\xff\xd8") and encoded.endswith(END_OF_IMAGE)):
        return False
    # A thumbnail inside a header has scans too; its end is then found too early, which sends the file to Pillow.
    scan = encoded.find(START_OF_SCAN)
    marker = MARKER.search(encoded, scan + len(START_OF_SCAN)) if scan >= 0 else None
    return marker is not None and marker.start() == len(encoded) - len(END_OF_IMAGE)


def _open(encoded: bytes) -> Image.Image:
    """Reads the header only. Pillow warns of bombs of middling size, which are refused here, and of odd metadata."""
    with _WARNING_FILTERS, warnings.catch_warnings():  # which changes the filters of all threads
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(encoded))


def _upper_bits(levels: np.ndarray) -> np.ndarray:
    """Grey [h, w] of 16 bits → uint8 [h, w, 3]."""
    grey = (np.clip(levels, 0, 65535) >> 8).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
