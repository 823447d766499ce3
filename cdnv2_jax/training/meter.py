"""How fast a run goes, and what it waits for."""

import contextlib
import time
from collections.abc import Iterator

import jax


class Meter:
    """Images per second, share of the time spent waiting for input, and device memory, since it was last read."""

    def __init__(self, batch_size: int, first_step: int):
        self._batch_size = batch_size
        self._restart(first_step)

    def _restart(self, step: int) -> None:
        self._step, self._clock, self._waited, self._paused = step, time.perf_counter(), 0.0, 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A context whose time counts as waiting for input."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time does not count at all."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def read(self, step: int) -> dict[str, float]:
        """images_per_second, input_wait (in [0, 1]) and, where known, device_memory_gib (peak); then starts anew."""
        seconds = max(time.perf_counter() - self._clock - self._paused, 1e-9)
        figures = {
            "images_per_second": (step - self._step) * self._batch_size / seconds,
            "input_wait": min(self._waited / seconds, 1.0),
        }
        memory = jax.local_devices()[0].memory_stats()  # None for CPUs
        if memory and "peak_bytes_in_use" in memory:
            figures["device_memory_gib"] = memory["peak_bytes_in_use"] / 2**30
        self._restart(step)
        return figures
