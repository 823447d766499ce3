"""One entry of a comparison: ours and its peers timed in turn, once they are known to give the same results."""

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.floors import Floor
from benchmarks.peers.peer import TOLERANCE, check_same
from benchmarks.results import Entry
from benchmarks.timing import Call, measure_in_turn, ratio_spread, spread
from cdnv2_jax.errors import one_line

OURS = "ours"


def result_of(call: Call) -> np.ndarray:
    """What one call returns."""
    return np.asarray(call())


def admitted(
    contenders: Mapping[str, Callable[[], Call]],
    expected: np.ndarray,
    *,
    probe: Callable[[Call], np.ndarray] = result_of,
    tolerance: float = TOLERANCE,
) -> tuple[dict[str, Call], dict[str, str]]:
    """Prepares all whose `probe` is near enough to `expected`; the others by name, with what is wrong with them."""
    calls: dict[str, Call] = {}
    refused: dict[str, str] = {}
    for name, prepare in contenders.items():
        # Whatever keeps another framework from running here is a finding to be recorded, not the end of the others.
        try:
            call = prepare()
            check_same(expected, probe(call), tolerance)
            calls[name] = call
        except Exception as error:
            refused[name] = one_line(error)
    return calls, refused


def compared(calls: Mapping[str, Call], refused: Mapping[str, str], floor: Floor, rounds: int, seconds: float) -> Entry:
    """Times the calls; one of them must be OURS.

    Returns:
      rounds; "milliseconds" by name and "ratios" of each other one to ours, as `Spread`s; who was refused and why;
      the floor.
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
