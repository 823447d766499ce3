"""Whole runs on many devices, in one process and in several that talk over the loopback device, as hosts of a cluster
would over the network: the batch is one, however it is split."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax import load
from tests.distributed.runs import STEPS, finished, losses, start, start_command
from tests.weights.networks import assert_same_network

# Each run is a process, or several that find one another, in which JAX starts and compiles: ten seconds and more.
pytestmark = pytest.mark.slow

CHECKPOINTS = "--config.checkpoint_every_epochs=1"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one process with one device."""
    return finished(tmp_path_factory.mktemp("devices") / "alone")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two processes with one device each."""
    return finished(tmp_path_factory.mktemp("processes") / "two", processes=2)


@pytest.fixture(scope="module")
def moved(alone: Path) -> Path:
    """A run that was interrupted on four devices of one process, and ended by two processes with one each."""
    workdir = alone.parent / "moved"
    run = start(workdir, devices=4)
    run.signal_at(10, 0, signal.SIGTERM)
    run.succeed()
    resumed = start(workdir, processes=2)
    resumed.succeed()
    assert "resuming after step" in resumed.log(0)
    return workdir


def test_splitting_the_batch_changes_nothing(moved: Path, alone: Path) -> None:
    """Among devices, among processes, and from one to the other."""
    assert len(losses(alone)) == STEPS
    np.testing.assert_allclose(losses(moved), losses(alone), rtol=1e-10)
    assert_same_masks(moved, alone)


@pytest.mark.soak  # two more runs; one on four devices and then in two processes is above
@pytest.mark.parametrize("devices", [2, 8])
def test_splitting_the_batch_among_devices_changes_nothing(devices: int, alone: Path) -> None:
    """All losses, three pruning stages among them, and every mask."""
    split = finished(alone.parent / f"split_{devices}", devices=devices)
    assert len(losses(alone)) == STEPS
    np.testing.assert_allclose(losses(split), losses(alone), rtol=1e-10)
    assert_same_masks(split, alone)
    summaries = [json.loads((run / "summary.json").read_text())["masked"] for run in (split, alone)]
    assert summaries[0]["accuracy"] == summaries[1]["accuracy"]
    assert summaries[0]["loss"] == pytest.approx(summaries[1]["loss"], rel=1e-5)


@pytest.mark.soak  # two more runs, most of a minute
def test_accumulating_parts_is_a_batch_normalisation_of_parts(alone: Path) -> None:
    """Two parts of 48 differ from one batch of 96 by their statistics alone: near, but not the same."""
    parts = finished(alone.parent / "parts", "--config.accumulate=2")
    first, whole = losses(parts)[0], losses(alone)[0]
    assert first != whole
    assert first == pytest.approx(whole, rel=0.1)
    # On two devices the parts are the same rows: j, j + 2, … of the whole batch.
    split = finished(alone.parent / "parts_on_2", "--config.accumulate=2", devices=2)
    np.testing.assert_allclose(losses(split), losses(parts), rtol=1e-10)


@pytest.mark.soak  # two more processes
def test_splitting_the_batch_among_processes_changes_nothing(two: Path, alone: Path) -> None:
    np.testing.assert_allclose(losses(two), losses(alone), rtol=1e-10)
    assert_same_masks(two, alone)


@pytest.mark.soak  # more processes than most machines that test have cores
def test_four_processes_with_a_device_each(two: Path) -> None:
    """The batch is one, however it is split: as two processes, which are as two devices."""
    four = finished(two.parent / "four", processes=4)
    np.testing.assert_allclose(losses(four), losses(two), rtol=1e-10)
    assert_same_masks(four, two)


def assert_same_masks(run: Path, other: Path) -> None:
    for ours, theirs in zip(load(run / "masked").masked_convs(), load(other / "masked").masked_convs(), strict=True):
        np.testing.assert_array_equal(ours.mask[...], theirs.mask[...])


@pytest.mark.soak  # two runs of two processes each: most of a minute; kills of single ones are in tests/commands
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed(victim: int, two: Path) -> None:
    """The other ends with a clear error; started again, the run ends like one that was left alone."""
    workdir = two.parent / f"killed_{victim}"
    run = start(workdir, CHECKPOINTS, processes=2)
    run.signal_at(20, victim, signal.SIGKILL)
    statuses = run.wait()
    assert statuses[victim] == -signal.SIGKILL and statuses[1 - victim] not in (0, 2), statuses
    complaint = run.log(1 - victim)
    assert "another process of this run has stopped" in complaint or "another task died" in complaint, complaint
    assert not (workdir / "summary.json").exists()
    again = start(workdir, CHECKPOINTS, processes=2)
    again.succeed()
    assert "resuming after step 14" in again.log(0)
    _assert_ends_like(workdir, two)


@pytest.mark.soak  # as long
def test_asked_to_stop(two: Path) -> None:
    """SIGTERM to one of them: both save the same step and end well; the run goes on from there."""
    workdir = two.parent / "asked"
    run = start(workdir, processes=2)
    run.signal_at(10, 1, signal.SIGTERM)
    run.succeed()
    assert "asked to stop: saved after step" in run.log(0)
    assert not (workdir / "summary.json").exists()
    again = start(workdir, processes=2)
    again.succeed()
    assert "resuming after step" in again.log(0)
    _assert_ends_like(workdir, two)


def _assert_ends_like(workdir: Path, two: Path) -> None:
    np.testing.assert_array_equal(losses(workdir), losses(two))
    for form in ("masked", "condensed"):
        assert_same_network(load(workdir / form), load(two / form))


def test_evaluation(moved: Path) -> None:
    """Each process reads half of the 360 images; figures are those of all, printed once."""
    run = start_command(moved, "eval", "--checkpoint", str(moved / "condensed"), processes=2)
    run.succeed()
    accuracy = json.loads((moved / "summary.json").read_text())["condensed"]["accuracy"]
    assert "360 images of digits" in run.log(0) and f"top-1 {accuracy:.4%}" in run.log(0)
    assert "top-1" not in run.log(1)


def test_processes_that_fail_do_not_wait_for_the_others(moved: Path) -> None:
    """The same run started again, which is refused as finished: every process must end, not only the first."""
    run = start(moved, processes=2)
    assert run.wait()[0] == 2
    assert "finished" in run.log(0)
