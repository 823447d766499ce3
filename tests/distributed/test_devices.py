"""One process with many devices: the batch is one, however it is split."""

import json
from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax import load
from tests.distributed.runs import STEPS, finished, losses

# Each run is a process that starts JAX and compiles: ten seconds and more.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("devices") / "alone")


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.soak), 8])
def test_splitting_the_batch_changes_nothing(devices: int, alone: Path) -> None:
    """Losses of 58 steps, three pruning stages among them, and every mask."""
    split = finished(alone.parent / f"split_{devices}", devices=devices)
    assert len(losses(alone)) == STEPS
    np.testing.assert_allclose(losses(split), losses(alone), rtol=1e-10)
    for ours, theirs in zip(load(split / "masked").masked_convs(), load(alone / "masked").masked_convs(), strict=True):
        np.testing.assert_array_equal(ours.mask[...], theirs.mask[...])
    summaries = [json.loads((run / "summary.json").read_text())["masked"] for run in (split, alone)]
    assert summaries[0]["accuracy"] == summaries[1]["accuracy"]
    assert summaries[0]["loss"] == pytest.approx(summaries[1]["loss"], rel=1e-5)


@pytest.mark.soak  # two more runs, most of a minute
def test_accumulating_parts_is_a_batch_normalisation_of_parts(alone: Path) -> None:
    """Two parts of 24 differ from one batch of 48 by their statistics alone: near, but not the same."""
    parts = finished(alone.parent / "parts", "--config.accumulate=2")
    first, whole = losses(parts)[0], losses(alone)[0]
    assert first != whole
    assert first == pytest.approx(whole, rel=0.1)
    # On two devices the parts are the same rows: j, j + 2, … of the whole batch.
    split = finished(alone.parent / "parts_on_2", "--config.accumulate=2", devices=2)
    np.testing.assert_allclose(losses(split), losses(parts), rtol=1e-10)
