"""Sources that fail as the world does (they hang, crash, are killed, run out of memory), and one that does not.

Not beside the tests that read them, whose imports would take each worker process seconds to start.
"""

import dataclasses
import io
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cdnv2_jax.data.source import Sample, Source


@dataclasses.dataclass(frozen=True)
class Failing(Source[Sample]):
    """Grey images, of which one fails: `how` is "hang", "memory", "exit" or the name of a signal.

    What would end a process does so in worker processes only. Images in `damaged` cannot be read.
    """

    count: int
    at: int = -1
    how: str = ""
    delay: float = 0
    damaged: tuple[int, ...] = ()
    class_names: Sequence[str] = ("a",)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        time.sleep(self.delay)
        if index == self.at:
            self._fail()
        if index in self.damaged:
            return Sample(b"no image", 0, f"image {index}")
        return Sample(np.full((8, 8, 3), index, np.uint8), 0, f"image {index}")

    def _fail(self) -> None:
        if self.how == "hang":
            time.sleep(1000)
        elif self.how == "memory":
            raise MemoryError
        elif multiprocessing.parent_process() is None:
            return
        elif self.how == "exit":
            os._exit(0)
        else:
            signal.pthread_kill(threading.get_ident(), getattr(signal, self.how))


@dataclasses.dataclass(frozen=True)
class Encoded(Source[Sample]):
    """`count` PNG images, each of one grey level that is its position; those in `damaged` cannot be read."""

    count: int
    damaged: tuple[int, ...] = ()
    side: int = 12
    class_names: Sequence[str] = ("even", "odd")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        file = io.BytesIO()
        Image.new("RGB", (self.side, self.side), (index,) * 3).save(file, "PNG")
        encoded = b"no image" if index in self.damaged else file.getvalue()
        return Sample(encoded, index % 2, f"image {index}")
