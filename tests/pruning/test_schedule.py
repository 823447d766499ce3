"""When each stage is due: tables, exact arithmetic, and the official training runs."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax.pruning.prune import due_stage, due_stages, pruning_steps
from tests.golden_format import read_golden
from tests.tables import table

GOLDEN = Path(__file__).parents[1] / "golden"


@table(
    "factor, starts",
    [
        (1, []),
        (2, [1 / 2]),
        (4, [1 / 6, 2 / 6, 1 / 2]),
        (6, [0.1, 0.2, 0.3, 0.4, 0.5]),
        (8, [1 / 14, 2 / 14, 3 / 14, 4 / 14, 5 / 14, 6 / 14, 7 / 14]),
    ],
)
def test_stages_start_exactly_at_their_boundaries(factor: int, starts: list[float]) -> None:
    assert due_stage(0.0, factor) == 0
    for stage, start in enumerate(starts, start=1):
        assert due_stage(start, factor) == stage
        assert due_stage(math.nextafter(start, 0), factor) == stage - 1
    assert due_stage(1.0, factor) == len(starts)


@table("factor", [2, 4, 6, 8])
def test_every_step_of_every_short_run_is_as_in_exact_arithmetic(factor: int) -> None:
    """2 · step / total ≥ s / (C − 1) in fractions; floating point never tips the comparison."""
    last = factor - 1
    for total in range(1, 150):
        for step in range(total + 1):
            exact = min(math.floor(Fraction(2 * step, total) * last), last)
            assert due_stage(step / total, factor) == exact, (step, total)


@table("progress", [-0.001, 1.001, math.nan, math.inf])
def test_progress_outside_a_run_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match=r"progress must be in \[0, 1\], got"):
        due_stage(progress, 4)


def test_due_stages_of_several_factors() -> None:
    assert due_stages(0.25, [8, 2, 4, 8, 4]) == {2: 0, 4: 1, 8: 3}
    assert due_stages(0.25, []) == {}


@table(
    "total, factor, steps",
    [
        (0, 4, {1: 0, 2: 0, 3: 0}),
        (1, 2, {1: 1}),
        (1, 4, {1: 1, 2: 1, 3: 1}),
        (2, 4, {1: 1, 2: 1, 3: 1}),
        (3, 4, {1: 1, 2: 1, 3: 2}),
        (3, 8, {1: 1, 2: 1, 3: 1, 4: 1, 5: 2, 6: 2, 7: 2}),
        (10, 6, {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}),
        (10, 8, {1: 1, 2: 2, 3: 3, 4: 3, 5: 4, 6: 5, 7: 5}),
        (80, 2, {1: 40}),
        (80, 8, {1: 6, 2: 12, 3: 18, 4: 23, 5: 29, 6: 35, 7: 40}),
        (10, 1, {}),
    ],
)
def test_pruning_steps(total: int, factor: int, steps: dict[int, int]) -> None:
    assert pruning_steps(total, factor) == steps


@table("factor", [2, 4, 6, 8])
def test_no_stage_is_ever_missing(factor: int) -> None:
    for total in range(40):
        steps = pruning_steps(total, factor)
        assert list(steps) == list(range(1, factor))
        assert list(steps.values()) == sorted(steps.values())
        assert 0 <= steps[factor - 1] <= max(total, 0)


@table("name", ["digits_trajectory", "digits_trajectory_c8g4"])
def test_steps_at_which_the_official_code_pruned(name: str) -> None:
    """Read off the number of ones that each mask of the run had after each of its 80 steps."""
    golden = read_golden(GOLDEN / f"{name}.npz")
    ones, config = golden.arrays["mask_ones"], golden.meta["config"]
    for layer, counts in zip(golden.arrays["mask_layers"], ones.T, strict=True):
        factor = config["trans_factor"] if str(layer).endswith("sfr") else config["condense_factor"]
        pruned_before = [int(step) + 1 for step in np.flatnonzero(np.diff(counts))]
        assert pruned_before == list(pruning_steps(len(ones), factor).values()), layer
