"""How long networks take, measured side by side."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def milliseconds_per_call(
    functions: Mapping[str, Callable[[], Any]], *, rounds: int = 15, seconds: float = 10.0
) -> dict[str, list[float]]:
    """Milliseconds of each call, function by function in turn (A B A B …), so that drift hits all alike.

    Args:
      functions: name → a call that returns JAX arrays or anything finished on return.
      rounds: how many timed calls of each, after one that is not counted (it compiles).
      seconds: stop after so long, though never before three rounds.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    for done in range(rounds):
        if done >= 3 and time.perf_counter() > end:
            break
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def median_milliseconds(times: Mapping[str, list[float]], images: int) -> dict[str, float]:
    """Median milliseconds per image of `milliseconds_per_call`'s result, for calls on `images` images."""
    return {name: statistics.median(values) / images for name, values in times.items()}
