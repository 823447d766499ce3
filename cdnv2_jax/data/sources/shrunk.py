"""Training images shrunk to a short side, as JPEGs that take less time to decode."""

import dataclasses
import io

import numpy as np
from PIL import Image

from cdnv2_jax.data.decode import BrokenImage
from cdnv2_jax.data.source import Sample, Source
from cdnv2_jax.errors import UserError

QUALITY = 95
LEAST_SHORT_SIDE = 32
LONGEST_SIDE = 65_500  # that libjpeg writes


class Shrunk(Source[Sample]):
    """Images of another source, large ones shrunk to a short side and saying how large they were.

    They are turned upright first, as their EXIF orientation says, and lose all metadata. Unchanged are those whose
    short side is no longer than asked for, and those that cannot be decoded, which are up to the reader.
    """

    def __init__(self, source: Source[Sample], short_side: int):
        """Raise UserError if `short_side`, in pixels, is too small."""
        if short_side < LEAST_SHORT_SIDE:
            raise UserError(f"--short-side {short_side}: must be at least {LEAST_SHORT_SIDE}")
        self.class_names, self.remarks, self.in_bucket = source.class_names, source.remarks, source.in_bucket
        self._source, self.short_side = source, short_side

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        sample = self._source[index]
        try:
            pixels = sample.pixels()
        except BrokenImage:
            return sample
        height, width = pixels.shape[:2]
        scale = self.short_side / min(height, width)
        sides = round(width * scale), round(height * scale)
        if scale >= 1 or max(sides) > LONGEST_SIDE:
            return sample
        return dataclasses.replace(sample, image=_jpeg(pixels, sides), full_size=(height, width))


def _jpeg(pixels: np.ndarray, sides: tuple[int, int]) -> bytes:
    """Resize uint8 [h, w, 3] to (width, height), antialiased, and encode the result."""
    file = io.BytesIO()
    Image.fromarray(pixels).resize(sides, Image.Resampling.BICUBIC).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
