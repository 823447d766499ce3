"""Runs of two processes that SLURM and Open MPI start and stop, on this machine."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax import load
from tests.distributed.launchers import MPIRUN, Job, documented_script, missing, slurm, wait_for
from tests.distributed.runs import PATIENCE, RUN, environment, finished, losses
from tests.weights.networks import assert_same_network

# Daemons, and runs long enough to be stopped by them; nothing here depends on how XLA compiles.
pytestmark = pytest.mark.soak

LONG = ("--config.epochs=30", "--config.checkpoint_every_epochs=1000")
"""420 steps: SLURM takes seconds to stop a job."""

TIME_TO_SAVE = ("--mca", "odls_base_sigkill_timeout", "15")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one process with two devices."""
    return finished(tmp_path_factory.mktemp("launched") / "alone", *LONG, devices=2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if reason := missing("slurm-wlm munge"):
        pytest.skip(reason)
    with slurm(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables


@pytest.fixture
def open_mpi() -> None:
    if reason := missing("openmpi-bin"):
        pytest.skip(reason)


def test_srun(cluster: dict[str, str], alone: Path) -> None:
    workdir = alone.parent / "srun"
    printed = _printed(["srun", "-n", "2", *_train(workdir)], {**environment(workdir), **cluster})
    assert "on 2 cpu devices of 2 processes" in printed and printed.count("summary:") == 1
    _assert_ends_like(workdir, alone)


def test_a_batch_script_without_srun(cluster: dict[str, str], tmp_path: Path) -> None:
    command = " ".join(f"'{word}'" for word in _train(tmp_path / "run"))
    job = Job(f"#!/bin/bash\n{command}\n", tmp_path, {**environment(tmp_path / "run"), **cluster}, "-n", "2")
    wait_for(lambda: job.state in ("FAILED", "COMPLETED"), PATIENCE)
    assert "write srun before it" in job.log.read_text() and not (tmp_path / "run").exists()


def test_a_preempted_job_requeues_itself(cluster: dict[str, str], alone: Path) -> None:
    """By the script in the documentation; the run then ends like one that was left alone."""
    workdir = alone.parent / "preempted"
    job = _started_job(_train(workdir), workdir, cluster)
    job.run("sbatch", "--partition=high", "-n", "2", "--output=/dev/null", "--wrap=sleep 1")
    _assert_requeued(job, workdir)
    job.run("scontrol", "update", "JobId=" + job.number, "StartTime=now")  # not after two minutes
    wait_for(lambda: job.state == "COMPLETED", PATIENCE)
    assert "resuming after step" in job.log.read_text()
    _assert_ends_like(workdir, alone)


@pytest.mark.parametrize("stop", ["time limit", "scancel --signal=TERM JOB"])
def test_a_stopped_job_requeues_itself(stop: str, cluster: dict[str, str], tmp_path: Path) -> None:
    """Also out of time, of which SLURM knows to the minute; the run is longer than that."""
    workdir = tmp_path / "run"
    limit = "--time=4" if stop == "time limit" else "--time=60"
    job = _started_job(_train(workdir, "--config.epochs=5000"), workdir, cluster, limit, "--signal=TERM@60")
    if stop != "time limit":
        job.run(*stop.split())
    _assert_requeued(job, workdir)
    job.run("scancel", "JOB")


def test_a_cancelled_job_saves_and_stays_cancelled(cluster: dict[str, str], tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    job = _started_job(_train(workdir, "--config.epochs=5000"), workdir, cluster)
    job.run("scancel", "JOB")
    wait_for(lambda: "asked to stop: saved" in job.log.read_text(), PATIENCE)
    wait_for(lambda: job.state in ("CANCELLED", ""), PATIENCE)
    _assert_saved(workdir, job.log.read_text())


@pytest.mark.usefixtures("open_mpi")
def test_mpirun(alone: Path) -> None:
    """Its output, of which each task takes a part for a terminal, is lines."""
    workdir = alone.parent / "mpirun"
    printed = _printed([*MPIRUN, *_train(workdir)], environment(workdir))
    assert "on 2 cpu devices of 2 processes" in printed and printed.count("summary:") == 1
    assert "\x1b" not in printed and "Open MPI kills this run 1 s after SIGTERM" in printed
    _assert_ends_like(workdir, alone)


@pytest.mark.usefixtures("open_mpi")
def test_mpirun_is_stopped(alone: Path) -> None:
    """In a terminal, where a progress bar would block the first process while nothing is read of it."""
    workdir = alone.parent / "stopped"
    reading, writing = pty.openpty()
    command = [*MPIRUN, *TIME_TO_SAVE, *_train(workdir, "--config.epochs=600")]
    with subprocess.Popen(command, env=environment(workdir), stdout=writing, stderr=writing) as launcher:
        os.close(writing)
        wait_for(lambda: len(losses(workdir)) > 5, PATIENCE)
        launcher.send_signal(signal.SIGTERM)
        printed = b"".join(iter(lambda: _read(reading), b"")).decode()
    assert "kills this run" not in printed and "\x1b[2K" not in printed
    _assert_saved(workdir, printed)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""


def _train(workdir: Path, *overrides: str) -> list[str]:
    script = str(Path(__file__).parents[2] / "main.py")
    return [sys.executable, script, "train", *RUN, *LONG, *overrides, "--workdir", str(workdir), "--distributed"]


def _printed(command: Sequence[str], variables: dict[str, str]) -> str:
    ended = subprocess.run(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def _started_job(command: Sequence[str], workdir: Path, cluster: dict[str, str], *options: str) -> Job:
    """The documented job with another command, once it has taken some steps."""
    folder = workdir.parent / f"{workdir.name}_job"
    folder.mkdir()
    job = Job(documented_script(command, workdir), folder, {**environment(workdir), **cluster}, *options)
    wait_for(lambda: len(losses(workdir)) > 5, PATIENCE)
    return job


def _assert_requeued(job: Job, workdir: Path) -> None:
    wait_for(lambda: job.state == "PENDING", PATIENCE)
    _assert_saved(workdir, job.log.read_text())


def _assert_saved(workdir: Path, printed: str) -> None:
    """The last step done is saved, which is said once."""
    assert printed.count("asked to stop: saved after step") == 1, printed
    assert not (workdir / "summary.json").exists()
    assert [int(step.name) for step in (workdir / "checkpoints").iterdir()] == [len(losses(workdir))]


def _assert_ends_like(workdir: Path, alone: Path) -> None:
    """Bit for bit, as processes and devices have the same cores."""
    np.testing.assert_array_equal(losses(workdir), losses(alone))
    for form in ("masked", "condensed"):
        assert_same_network(load(workdir / form), load(alone / form))
    ours, theirs = (json.loads((run / "summary.json").read_text())["masked"] for run in (workdir, alone))
    assert (ours["accuracy"], ours["loss"]) == (theirs["accuracy"], theirs["loss"])
