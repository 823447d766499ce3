"""Statistics by small tables; calls are made in turn."""

import pytest

from benchmarks.timing import LEAST_ROUNDS, Spread, measure_in_turn, ratio_spread, repeats_per_visit, spread

SPREADS: dict[str, tuple[list[float], Spread]] = {
    "one": ([3.0], Spread(3.0, 3.0, 3.0, 3.0, 3.0)),
    "two": ([1.0, 3.0], Spread(2.0, 1.0, 1.5, 2.5, 3.0)),
    "five, unsorted": ([5.0, 1.0, 4.0, 2.0, 3.0], Spread(3.0, 1.0, 2.0, 4.0, 5.0)),
    "an outlier moves the highest only": ([1.0, 2.0, 3.0, 4.0, 900.0], Spread(3.0, 1.0, 2.0, 4.0, 900.0)),
}


@pytest.mark.parametrize(("values", "expected"), SPREADS.values(), ids=SPREADS)
def test_spread(values: list[float], expected: Spread) -> None:
    assert spread(values) == expected


def test_ratios_are_taken_pair_by_pair() -> None:
    """A machine that is slow for a while slows both: the ratios do not see it."""
    assert ratio_spread([1.0, 10.0, 2.0], [2.0, 20.0, 4.0]) == Spread(2.0, 2.0, 2.0, 2.0, 2.0)
    assert ratio_spread([1.0, 2.0], [3.0, 2.0]).median == 2.0


def test_ratios_need_as_many_of_both() -> None:
    with pytest.raises(ValueError):
        ratio_spread([1.0], [1.0, 2.0])


@pytest.mark.parametrize(("milliseconds", "repeats"), [(0.0, 9), (5.0, 9), (20.0, 3), (60.0, 1), (5000.0, 1)])
def test_short_calls_are_repeated(milliseconds: float, repeats: int) -> None:
    assert repeats_per_visit(milliseconds) == repeats


def test_calls_are_made_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr("benchmarks.timing.VISIT_MILLISECONDS", 0.0)  # one call each visit
    times = measure_in_turn({"a": lambda: made.append("a"), "b": lambda: made.append("b")}, rounds=6, settle=0.0)
    uncounted = ["a", "b", "a", "b"]
    assert made == uncounted + ["a", "b"] * 6
    assert {name: len(values) for name, values in times.items()} == {"a": 6, "b": 6}


@pytest.mark.parametrize(("rounds", "seconds"), [(1, 60.0), (100, 0.0)])
def test_never_fewer_than_the_least_rounds(rounds: int, seconds: float) -> None:
    times = measure_in_turn({"a": lambda: None}, rounds=rounds, seconds=seconds, settle=0.0)
    assert len(times["a"]) == LEAST_ROUNDS
