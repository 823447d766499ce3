"""Times calls in turn, and says by how much one is faster than another."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

Call = Callable[[], Any]
"""Does its work once; its result is JAX arrays, or anything that is finished on return."""

LEAST_ROUNDS = 5
SETTLE_SECONDS = 0.02  # frameworks' threads spin for some milliseconds after their work, in the others' way
VISIT_MILLISECONDS = 60.0  # short calls are repeated for about so long
MOST_REPEATS = 9


class Spread(NamedTuple):
    """What is told of a list of figures."""

    median: float
    lowest: float
    lower_quartile: float
    upper_quartile: float
    highest: float


def spread(values: Sequence[float]) -> Spread:
    """Median, quartiles (interpolated), lowest and highest of one or more figures."""
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * [values[0]]
    return Spread(statistics.median(values), min(values), lower, upper, max(values))


def ratio_spread(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of theirs over ours, pair by pair: above 1 where ours took less time in the same round."""
    return spread([b / a for a, b in zip(ours, theirs, strict=True)])


def repeats_per_visit(milliseconds: float) -> int:
    """How often in a row a call of that length is timed."""
    return max(1, min(MOST_REPEATS, round(VISIT_MILLISECONDS / max(milliseconds, 1e-3))))


def measure_in_turn(
    calls: Mapping[str, Call], *, rounds: int = 7, seconds: float = 60.0, settle: float = SETTLE_SECONDS
) -> dict[str, list[float]]:
    """Milliseconds of each call, one list entry per round; A B C A B C …, so that drift hits all alike.

    Each is called twice before, uncounted: it may have to compile. A visit that repeats a short call starts with an
    uncounted one, which brings back its data and threads, and counts the median of the others.

    Args:
      calls: name → what to time.
      rounds: visits to each; never fewer than LEAST_ROUNDS.
      seconds: after so long no further round begins, once there were LEAST_ROUNDS.
      settle: seconds of rest before each visit.
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
    """Of one call, until its result is there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return 1e3 * (time.perf_counter() - start)


def _visit(call: Call, repeats: int) -> float:
    if repeats > 1:
        milliseconds_of(call)
    return statistics.median(milliseconds_of(call) for _ in range(repeats))
