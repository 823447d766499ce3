"""Time calls in turn and compute ratios."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

Call = Callable[[], Any]
"""Does its work once; returns JAX arrays, or anything that is finished on return."""

LEAST_ROUNDS = 5
SETTLE_SECONDS = 0.02  # frameworks' threads spin for some milliseconds after their work and would slow down the next
VISIT_MILLISECONDS = 60.0  # short calls are repeated for about this long
MOST_REPEATS = 9


class Spread(NamedTuple):
    """Statistics of a list of values."""

    median: float
    lowest: float
    lower_quartile: float
    upper_quartile: float
    highest: float


def spread(values: Sequence[float]) -> Spread:
    """Compute median, interpolated quartiles, lowest and highest of one or more values."""
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * [values[0]]
    return Spread(statistics.median(values), min(values), lower, upper, max(values))


def ratio_spread(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Compute the spread of theirs over ours, round by round: above 1 where ours is faster."""
    return spread([b / a for a, b in zip(ours, theirs, strict=True)])


def repeats_per_visit(milliseconds: float) -> int:
    """Return how often in a row a call of this length is timed."""
    return max(1, min(MOST_REPEATS, round(VISIT_MILLISECONDS / max(milliseconds, 1e-3))))


def measure_in_turn(
    calls: Mapping[str, Call], *, rounds: int = 7, seconds: float = 60.0, settle: float = SETTLE_SECONDS
) -> dict[str, list[float]]:
    """Time calls in turn (A B C A B C …), so that drift affects all alike; one value in milliseconds per round.

    Each is first called twice without counting, as it may have to compile. A short call is repeated within a round,
    after an uncounted call that warms up caches and threads; the median counts.

    Args:
      calls: name → what to time.
      rounds: timed rounds; at least LEAST_ROUNDS.
      seconds: time after which no further round starts, once there were LEAST_ROUNDS.
      settle: seconds of rest before each call's turn.
    """
    for call in calls.values():
        milliseconds_of(call)
    repeats = {name: repeats_per_visit(milliseconds_of(call)) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for done in range(max(rounds, LEAST_ROUNDS)):
        if done >= LEAST_ROUNDS and time.perf_counter() > end:
            break
        for name, call in calls.items():
            time.sleep(settle)
            times[name].append(_visit(call, repeats[name]))
    return times


def milliseconds_of(call: Call) -> float:
    """Time one call until its result is ready."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return 1e3 * (time.perf_counter() - start)


def _visit(call: Call, repeats: int) -> float:
    if repeats > 1:
        milliseconds_of(call)
    return statistics.median(milliseconds_of(call) for _ in range(repeats))
