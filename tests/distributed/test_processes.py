"""Several real processes that talk over the loopback device, as hosts of a cluster would over the network."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax import load
from tests.distributed.runs import STEPS, Processes, finished, losses, start, start_command
from tests.weights.networks import assert_same_network

SLOW = pytest.mark.slow  # each run is several processes that start JAX, find one another and compile

CHECKPOINTS = "--config.checkpoint_every_epochs=1"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two processes with one device each."""
    return finished(tmp_path_factory.mktemp("processes") / "two", processes=2)


@SLOW
def test_two_processes_are_two_devices(two: Path) -> None:
    one = finished(two.parent / "one_with_2", devices=2)
    assert len(losses(one)) == STEPS
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-10)
    assert_same_masks(two, one)


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
    run.signal_at(40, victim, signal.SIGKILL)
    statuses = run.wait()
    assert statuses[victim] == -signal.SIGKILL and statuses[1 - victim] not in (0, 2), statuses
    complaint = run.log(1 - victim)
    assert "another process of this run has stopped" in complaint or "another task died" in complaint, complaint
    assert not (workdir / "summary.json").exists()
    again = start(workdir, CHECKPOINTS, processes=2)
    again.succeed()
    assert "resuming after step 29" in again.log(0)
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


@SLOW
def test_interrupted_on_four_devices_resumed_on_two(two: Path) -> None:
    workdir = two.parent / "fewer"
    run = start(workdir, devices=4)
    run.signal_at(10, 0, signal.SIGTERM)
    run.succeed()
    resumed: Processes = start(workdir, devices=2)
    resumed.succeed()
    assert "resuming after step" in resumed.log(0)
    np.testing.assert_allclose(losses(workdir), losses(two), rtol=1e-10)
    assert_same_masks(workdir, two)


def _assert_ends_like(workdir: Path, two: Path) -> None:
    np.testing.assert_array_equal(losses(workdir), losses(two))
    for form in ("masked", "condensed"):
        assert_same_network(load(workdir / form), load(two / form))


@SLOW
def test_evaluation(two: Path) -> None:
    """Each process reads half of the 360 images; figures are those of all, printed once."""
    run = start_command(two, "eval", "--checkpoint", str(two / "condensed"), processes=2)
    run.succeed()
    accuracy = json.loads((two / "summary.json").read_text())["condensed"]["accuracy"]
    assert "360 images of digits" in run.log(0) and f"top-1 {accuracy:.4%}" in run.log(0)
    assert "top-1" not in run.log(1)


@SLOW
def test_processes_that_fail_do_not_wait_for_the_others(two: Path) -> None:
    """The same run started again, which is refused as finished: every process must end, not only the first."""
    run = start(two, processes=2)
    assert run.wait()[0] == 2
    assert "finished" in run.log(0)
