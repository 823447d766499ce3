"""Images, in files or in memory, prepared in threads, some batches ahead of what computes with them."""

import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from PIL import Image

from cdnv2_jax.data.decode import MOST_BYTES, BrokenImage, decode, pixels_of
from cdnv2_jax.data.storage import AT_ONCE, read_file
from cdnv2_jax.errors import RunFailure, UserError
from cdnv2_jax.paths import as_path, is_remote

READERS = min(16, os.cpu_count() or 1)  # threads; each holds an image of any size. `AT_ONCE` wait for a bucket

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray
"""Path of an image file, Pillow image, or array: uint8 [height, width, channels] or, if it is grey, [height, width]."""

T = TypeVar("T")


def prepared_batches(
    pictures: Iterable[Picture], prepare: Callable[[np.ndarray], T], *, batch_size: int, max_megapixels: float
) -> Iterator[list[tuple[Path | None, T | BrokenImage]]]:
    """Yield batches of prepared images with their paths, in order, while threads prepare the next ones.

    Args:
      pictures: consumed one batch ahead, or as many as keep all threads busy. A path is None for an image in memory.
      prepare: function from pixels, uint8 [h, w, channels], upright; called in threads; may raise BrokenImage.
      batch_size: images per batch; the last one may be smaller.
      max_megapixels: limit of the files' size, in million pixels.

    Raises:
      RunFailure: memory has run out.
      UserError: `prepare` cannot take an image (it is named).
    """

    def prepared(number: int, picture: Picture) -> T | BrokenImage:
        name = str(path_of(picture) or f"image {number}")
        try:
            pixels = _pixels(picture, name, max_megapixels)
            try:
                return prepare(pixels)
            except BrokenImage:
                raise
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
        except BrokenImage as error:
            return error
        except MemoryError as error:
            raise RunFailure(f"no memory is left to prepare {name}: free some, or use smaller batches") from error

    pictures = iter(pictures)
    first = list(itertools.islice(pictures, 1))
    readers = AT_ONCE if any(is_remote(path) for picture in first if (path := path_of(picture))) else READERS
    remaining, batches_ahead = enumerate(itertools.chain(first, pictures)), math.ceil(readers / batch_size)
    threads = ThreadPoolExecutor(readers)
    ahead = deque[list[tuple[Path | None, Future[T | BrokenImage]]]]()
    try:
        while True:
            while len(ahead) <= batches_ahead and (batch := list(itertools.islice(remaining, batch_size))):
                ahead.append([(path_of(picture), threads.submit(prepared, n, picture)) for n, picture in batch])
            if not ahead:
                return
            yield [(path, image.result()) for path, image in ahead.popleft()]
    finally:
        threads.shutdown(cancel_futures=True)


def path_of(picture: object) -> Path | None:
    """Return a picture's path; None if it is in memory."""
    return as_path(picture) if isinstance(picture, str | os.PathLike) else None


def _pixels(picture: Picture, name: str, max_megapixels: float) -> np.ndarray:
    """Return an image as uint8 [height, width, channels]; BrokenImage if it is none."""
    if (path := path_of(picture)) is not None:
        try:
            encoded = read_file(path, MOST_BYTES)
        except UserError:  # a bucket refuses
            raise
        except ValueError as error:
            raise BrokenImage(name, str(error)) from error
        return decode(encoded, name, max_megapixels=max_megapixels)
    if isinstance(picture, Image.Image):
        return pixels_of(picture, name)
    if not hasattr(picture, "__array__"):
        raise BrokenImage(name, f"a {type(picture).__name__}", "give a path, a Pillow image or an array")
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not pixels.size:
        advice = "give uint8 [height, width, channels], or uint8 [height, width] if it is grey"
        raise BrokenImage(name, f"{pixels.dtype} {list(pixels.shape)}", advice)
    return pixels[..., None] if pixels.ndim == 2 else pixels
