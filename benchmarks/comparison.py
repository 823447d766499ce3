"""Compare ours with its peers: check that results agree, then time them in turn."""

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.floors import Floor
from benchmarks.peers.peer import TOLERANCE, check_same
from benchmarks.results import Entry
from benchmarks.timing import Call, measure_in_turn, ratio_spread, spread
from cdnv2_jax.errors import one_line

OURS = "ours"


def result_of(call: Call) -> np.ndarray:
    """Return the result of one call."""
    return np.asarray(call())


def admitted(
    contenders: Mapping[str, Callable[[], Call]],
    expected: np.ndarray,
    *,
    probe: Callable[[Call], np.ndarray] = result_of,
    tolerance: float = TOLERANCE,
) -> tuple[dict[str, Call], dict[str, str]]:
    """Prepare all contenders; return those whose `probe` is close to `expected`, and why the others were refused."""
    calls: dict[str, Call] = {}
    refused: dict[str, str] = {}
    for name, prepare in contenders.items():
        # Whatever keeps another framework from running here is recorded as a result; the others go on.
        try:
            call = prepare()
            check_same(expected, probe(call), tolerance)
            calls[name] = call
        except Exception as error:
            refused[name] = one_line(error)
    return calls, refused


def compared(calls: Mapping[str, Call], refused: Mapping[str, str], floor: Floor, rounds: int, seconds: float) -> Entry:
    """Time the calls, one of which must be OURS.

    Returns:
      The number of rounds, "milliseconds" by name, "ratios" of the others to ours (as `Spread`s), the refused ones with
      reasons, and the floor.
    """
    times = measure_in_turn(calls, rounds=rounds, seconds=seconds)
    ours = times[OURS]
    return {
        "rounds": len(ours),
        "milliseconds": {name: spread(values)._asdict() for name, values in times.items()},
        "ratios": {name: ratio_spread(ours, values)._asdict() for name, values in times.items() if name != OURS},
        "refused": dict(refused),
        "multiply_adds": floor.multiply_adds,
        "floor_bytes": floor.bytes,
    }
