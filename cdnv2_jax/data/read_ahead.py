"""Image files decoded and prepared in threads, some batches ahead of what computes with them."""

import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from cdnv2_jax.bounded_reading import read_bytes
from cdnv2_jax.data.decode import MOST_BYTES, BrokenImage, decode
from cdnv2_jax.errors import RunFailure

READERS = min(16, os.cpu_count() or 1)  # threads; each holds an image of any size

T = TypeVar("T")


def prepared_batches(
    paths: Iterable[Path], prepare: Callable[[np.ndarray], T], *, batch_size: int, max_megapixels: float
) -> Iterator[list[tuple[Path, T | BrokenImage]]]:
    """Yield batches of prepared images with their paths, in order, while threads prepare the next ones.

    Args:
      paths: paths of the image files, consumed one batch ahead, or as many as keep all threads busy.
      prepare: function from pixels, uint8 [h, w, 3], upright; called in threads; may raise BrokenImage.
      batch_size: images per batch; the last one may be smaller.
      max_megapixels: limit of the images' size, in million pixels.

    Raises:
      RunFailure: memory has run out.
    """

    def read(path: Path) -> T | BrokenImage:
        try:
            encoded = read_bytes(path, MOST_BYTES)
        except ValueError as error:
            return BrokenImage(str(path), str(error))
        try:
            return prepare(decode(encoded, str(path), max_megapixels=max_megapixels))
        except BrokenImage as error:
            return error
        except MemoryError as error:
            raise RunFailure(f"no memory is left to prepare {path}: free some, or use smaller batches") from error

    remaining, batches_ahead = iter(paths), math.ceil(READERS / batch_size)
    threads = ThreadPoolExecutor(READERS)
    ahead = deque[list[tuple[Path, Future[T | BrokenImage]]]]()
    try:
        while True:
            while len(ahead) <= batches_ahead and (batch := list(itertools.islice(remaining, batch_size))):
                ahead.append([(path, threads.submit(read, path)) for path in batch])
            if not ahead:
                return
            yield [(path, image.result()) for path, image in ahead.popleft()]
    finally:
        threads.shutdown(cancel_futures=True)
