"""Decode image files to pixels."""

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from cdnv2_jax.errors import RunFailure, UserError, one_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""How the names of image files end, in lower or upper case."""

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
"""Formats that are read, as Pillow calls them. It knows others, such as PostScript: programs that it lets run."""

MOST_BYTES = 1 << 30
"""Larger files are refused, because a file is read as a whole."""

MAX_MEGAPIXELS = 89
"""Larger images are refused unless the caller allows them, as Pillow recommends: a small file may declare gigabytes."""

LIMIT = "config.data.max_megapixels (predict: --max-megapixels)"

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
"""Ends the compressed data of a JPEG scan: 0xFF, except stuffed bytes and restart markers (ITU-T T.81, B.1.1)."""

START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"

AS_STORED = (False, False, False)
TURNS: dict[Any, tuple[bool, bool, bool]] = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""For each EXIF orientation except 1, whether to transpose an image, then to reverse its rows, its columns."""

LATE_ORIENTATION = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
"""What a PNG file contains if it states an orientation, perhaps only after its pixels."""

BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
WHITE_IS_ZERO = 0
"""Tags of TIFF files, and a value of the second."""

POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")
"""How EPS files start, the second with a header of DOS."""

_WARNING_FILTERS = threading.Lock()

cv2.setNumThreads(0)  # many processes run in parallel, and threads within each would only compete


class BrokenImage(UserError):
    """An image that cannot be read: corrupt, truncated, empty, too large, or not an image."""

    def __init__(self, name: str, why: str, advice: str = "fix or remove it"):
        super().__init__(f"{name} cannot be read as an image ({why}): {advice}")
        self._arguments = (name, why, advice)

    def __reduce__(self):
        return BrokenImage, self._arguments  # worker processes pickle it


def decode(encoded: bytes, name: str, *, upright: bool = True, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
    """Decode an image to RGB, uint8 [h, w, 3], bit for bit as Pillow's `Image.open(…).convert("RGB")`. Thread-safe.

    As in the official code, transparency is dropped. Images of 12 or 16 bits per channel keep the upper 8, greyscale
    ones too, which Pillow would clip. Of animations and documents of several pages the first is decoded.

    Ordinary JPEG files are decoded by OpenCV to the same pixels, at least a fifth faster. OpenCV silently fills missing
    parts of a damaged file with grey, so it is only given complete files of one scan. Anything else (progressive files,
    CMYK, trailing bytes) is decoded or refused by Pillow.

    Args:
      encoded: an image file.
      name: its name in messages.
      upright: turn the image as its EXIF orientation says, as Pillow's `exif_transpose` and every viewer do; damaged
        EXIF data say nothing. False leaves it as stored, except TIFF files, which Pillow always turns.
      max_megapixels: limit of the size, in million pixels; Pillow's own is raised to it, for the whole process.

    Raises:
      BrokenImage: the image cannot be decoded; the message contains `name`.
      RunFailure: memory has run out; likewise.
    """
    try:
        image = _open(encoded, name, max_megapixels)
        pixels = _stored_pixels(image, encoded)
        return _turned(pixels, *_turns(image, encoded)) if upright else pixels
    except (BrokenImage, RunFailure):
        raise
    except MemoryError as error:
        raise _no_memory(name) from error
    except Exception as error:  # Pillow raises many types for damaged files: struct.error, IndexError, …
        raise BrokenImage(name, one_line(error)) from error


def pixels_of(image: Image.Image, name: str) -> np.ndarray:
    """Return a Pillow image as RGB, uint8 [h, w, 3], with the pixels that `decode` gives for its file.

    Raises:
      BrokenImage: it cannot be loaded; the message contains `name`.
    """
    try:
        with _warnings_ignored():
            image.load()  # TIFF files are turned now, and PNG files may state an orientation after their pixels
            is_deep = image.mode.startswith(("I", "F"))
            pixels = _upper_bits(image) if is_deep else np.array(image.convert("RGB"))
        return _turned(pixels, *_stated_turns(image))
    except MemoryError as error:
        raise _no_memory(name) from error
    except Exception as error:  # as in `decode`
        raise BrokenImage(name, one_line(error)) from error


def encoded_size(
    encoded: bytes, name: str, *, upright: bool = True, max_megapixels: float = MAX_MEGAPIXELS
) -> tuple[int, int]:
    """Return the (height, width) that `decode` would, from an image file's header alone; raise BrokenImage likewise."""
    image = _open(encoded, name, max_megapixels)
    height, width = image.height, image.width
    transposed, _, _ = _turns(image, encoded) if upright else AS_STORED
    return (width, height) if transposed else (height, width)


def _stored_pixels(image: Image.Image, encoded: bytes) -> np.ndarray:
    if image.format == "JPEG" and image.mode in ("RGB", "L") and _is_one_complete_scan(encoded):
        pixels = _decode_jpeg(encoded)
        if pixels is not None and pixels.shape[:2] == (image.height, image.width):
            return pixels
    if image.mode.startswith(("I", "F")):
        return _upper_bits(image)
    image.info.pop("transparency", None)  # of palette colours; Pillow would warn that it is lost
    return np.array(image.convert("RGB"))


def _turns(image: Image.Image, encoded: bytes) -> tuple[bool, bool, bool]:
    """Return what is left to do, one of `TURNS`, for an image as stored; files may hold anything as orientation."""
    if image.format == "TIFF":
        return AS_STORED  # Pillow has turned it
    if image.format == "PNG" and not any(mark in encoded for mark in LATE_ORIENTATION):
        return AS_STORED  # Pillow would decode the pixels to be sure
    return _stated_turns(image)


def _stated_turns(image: Image.Image) -> tuple[bool, bool, bool]:
    try:
        with _warnings_ignored():
            return TURNS.get(image.getexif().get(ExifTags.Base.Orientation), AS_STORED)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF data raise many types
        return AS_STORED


def _turned(pixels: np.ndarray, transposed: bool, rows: bool, columns: bool) -> np.ndarray:
    """Transpose an image, then reverse its rows, its columns."""
    pixels = pixels.swapaxes(0, 1) if transposed else pixels
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])


def _decode_jpeg(encoded: bytes) -> np.ndarray | None:
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def _is_one_complete_scan(encoded: bytes) -> bool:
    """Whether a JPEG file has a single scan that extends to the end of the file."""
    if not (encoded.startswith(b"\xff\xd8") and encoded.endswith(END_OF_IMAGE)):
        return False
    # A thumbnail in the header has a scan too: its end is found instead, and the file is left to Pillow.
    scan = encoded.find(START_OF_SCAN)
    marker = MARKER.search(encoded, scan + len(START_OF_SCAN)) if scan >= 0 else None
    return marker is not None and marker.start() == len(encoded) - len(END_OF_IMAGE)


def _open(encoded: bytes, name: str, max_megapixels: float) -> Image.Image:
    """Read the header only; refuse what is too large, or no image."""
    most = round(1e6 * max_megapixels)
    if Image.MAX_IMAGE_PIXELS is not None and most > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = most
    advice = f"shrink it, or allow more with {LIMIT}"
    too_large = BrokenImage(name, f"it has more than {max_megapixels:g} megapixels", advice)
    try:
        with _warnings_ignored():
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise too_large from error
    except MemoryError as error:
        raise _no_memory(name) from error
    except Exception as error:
        raise _unknown(encoded, name, error) from error
    if image.width * image.height > most:
        raise too_large
    return image


def _no_memory(name: str) -> RunFailure:
    """Return an error that ends a run: the image may be fine, and skipping it would change the result."""
    return RunFailure(f"no memory is left to decode {name}: free some, or lower {LIMIT}")


def _unknown(encoded: bytes, name: str, error: Exception) -> BrokenImage:
    """Return an error that says what a file is that Pillow cannot open."""
    if not encoded:
        return BrokenImage(name, "it is empty")
    if encoded[4:8] == b"ftyp":
        return BrokenImage(name, "it is a HEIC or AVIF image, or a video", "convert it to JPEG")
    if encoded.startswith(POSTSCRIPT):
        return BrokenImage(name, "EPS files are programs, which are not run", "convert it to PNG")
    return BrokenImage(name, "unknown format" if isinstance(error, UnidentifiedImageError) else one_line(error))


@contextlib.contextmanager
def _warnings_ignored() -> Iterator[None]:
    with _WARNING_FILTERS, warnings.catch_warnings():  # warning filters are shared by all threads
        warnings.simplefilter("ignore")
        yield


def _upper_bits(image: Image.Image) -> np.ndarray:
    """Convert greyscale of 12 or 16 bits to uint8 [h, w, 3]; ValueError if it is unknown which level is white."""
    tags = getattr(image, "tag_v2", {})  # of TIFF files
    (bits, *_), is_inverted = tags.get(BITS_PER_SAMPLE, (16,)), tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    is_deeper = image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM"))
    if is_deeper or is_inverted:
        raise ValueError("its levels have no known scale: save it with 8 or 16 bits")
    grey = (np.clip(np.asarray(image), 0, 65535) >> (bits - 8)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
