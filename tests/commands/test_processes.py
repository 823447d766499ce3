"""Flags about processes, compiling and profiling: what they leave behind, and what is refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cdnv2_jax.commands import arguments, processes
from cdnv2_jax.commands.processes import stopping_remark
from tests.commands.shell import DIGITS, REPOSITORY, TINY, Shell

TRAIN = ("main.py", "train", "--config", DIGITS, *TINY, "--workdir", "run")


def test_profile_and_compilation_cache(shell: Shell) -> None:
    """In a process of its own: JAX decides once where it keeps what it has compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    flags = ("--profile", "2:4", "--compilation-cache", "cache", "--config.data.batch_size=239")
    finished = subprocess.run(
        [sys.executable, REPOSITORY / TRAIN[0], *TRAIN[1:], *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert any(file.stat().st_size for file in Path("run/profile").rglob("*.xplane.pb"))
    assert list(Path("cache").iterdir())  # the step takes more than the tenth of a second from which programs are kept


def test_no_profile_unasked(smoke_run: Path) -> None:
    assert not (smoke_run / "profile").exists()


@pytest.mark.parametrize("window", ["4:2", "2:2", "3", "a:b", "-1:2", "1:2:3", ""])
def test_windows_that_are_none(window: str, shell: Shell) -> None:
    complaint = shell.refuses(*TRAIN, f"--profile={window}")
    assert "--profile" in complaint and "FIRST:LAST" in complaint


def test_compilation_cache_that_is_a_file(shell: Shell) -> None:
    Path("file").write_text("mine")
    assert "--compilation-cache file" in shell.refuses(*TRAIN, "--compilation-cache", "file")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever starts these tests, they are nobody's tasks."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "JAX_COORDINATOR", "JAX_NUM_PROC", "JAX_PROCESS_ID")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("verb", ["train", "eval"])
@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (["--processes=2"], "--coordinator (JAX_COORDINATOR_ADDRESS), --process (JAX_PROCESS_ID) missing"),
        (["--processes=2", "--process=0"], "--coordinator (JAX_COORDINATOR_ADDRESS) missing"),
        (["--coordinator=host:1"], "--processes (JAX_NUM_PROCESSES), --process (JAX_PROCESS_ID) missing"),
        (["--coordinator=host", "--processes=2", "--process=0"], "--coordinator must be HOST:PORT"),
    ],
)
def test_some_flags_missing(verb: str, given: list[str], missing: str, shell: Shell) -> None:
    where = {"train": ("--workdir", "run"), "eval": ("--checkpoint", "network")}[verb]
    assert missing in shell.refuses("main.py", verb, "--config", DIGITS, *where, *given)


def test_environment_that_is_no_number(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    assert "JAX_NUM_PROCESSES must be a number, got 'two'" in shell.refuses(*TRAIN)


@pytest.mark.parametrize(
    ("launcher", "variables"),
    [
        ("SLURM", {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}),
        ("Open MPI", {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}),
    ],
)
def test_one_of_several_tasks(
    launcher: str, variables: dict[str, str], shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four runs in one work directory would be nobody's wish."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    complaint = shell.refuses(*TRAIN)
    assert f"{launcher} started this as task 1 of 4: add --distributed" in complaint


def test_the_only_task(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of one task needs no flag: the mistake reported is another."""
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert "config.epochs" in shell.refuses(*TRAIN, "--config.epochs=0")


BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
"""What SLURM 22.05 tells a batch script, among much else."""


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({}, "no launcher started this process: start it with srun or mpirun"),
        ({"JAX_NUM_PROCESSES": "2"}, "no launcher started this process"),
        (BATCH, "write srun before it"),
        ({**BATCH, "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_LOCALID": None}, "SLURM's SLURM_LOCALID missing"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "only version 4 of Open MPI"),
        ({"OMPI_MCA_orte_hnp_uri": "no address"}, "do not find one another"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "needs the package kubernetes"),
    ],
)
def test_distributed_without_what_it_needs(
    variables: dict[str, str | None], missing: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "find_spec", lambda _: None)  # neither libtpu nor kubernetes
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)
    assert missing in shell.refuses(*TRAIN, "--distributed")


def test_a_host_of_a_tpu_slice_that_does_not_join(monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    """JAX counts the hosts of a slice without being told of them; stopping and saving needs more."""
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    monkeypatch.setattr(arguments, "_is_one_of_several", lambda: False)  # which ends the process at once
    complaint = shell.refuses(*TRAIN)
    assert "one of 4 hosts of a TPU slice: start the command on all of them, with --distributed" in complaint


def test_open_mpi_that_gives_no_time_to_save() -> None:
    under = {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://127.0.0.1:1"}
    timeout = "OMPI_MCA_odls_base_sigkill_timeout"
    assert "1 s after SIGTERM" in stopping_remark(under) and "2 s after" in stopping_remark({**under, timeout: "2"})
    assert stopping_remark({}) == stopping_remark({**under, timeout: "30"}) == ""
