"""A shell in a directory of its own, and the runs that several tests look at."""

import contextlib
import fcntl
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cdnv2_jax.commands.main import main
from tests.commands.interrupted import RUN, run_until, take_over
from tests.commands.shell import DIGITS, Shell


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Commands run in the test's temporary directory."""
    monkeypatch.chdir(tmp_path)
    return Shell(capsys, tmp_path)


@pytest.fixture(scope="session")
def smoke_run(for_all_workers: Path) -> Path:
    """The work directory of a finished run of `configs/digits.py:smoke`. To be read only."""

    def train(workdir: Path) -> None:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(["train", "--config", DIGITS, "--workdir", str(workdir)]) == 0
        (workdir.parent / "printed.txt").write_text(printed.getvalue(), encoding="utf-8")

    return _once(for_all_workers / "runs" / "smoke", train)


@pytest.fixture(scope="session")
def uninterrupted(for_all_workers: Path) -> Path:
    """The work directory of a run of `RUN` that nothing happened to. To be read only."""

    def train(workdir: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(["train", *RUN, "--workdir", str(workdir)]) == 0

    return _once(for_all_workers / "runs" / "whole", train)


@pytest.fixture(scope="session")
def interrupted_once(for_all_workers: Path) -> Path:
    """The work directory of a run of `RUN` that ended after step 5, its only checkpoint after step 3."""
    return _once(for_all_workers / "runs" / "part", lambda workdir: run_until(5, workdir))


def _once(workdir: Path, train: Callable[[Path], None]) -> Path:
    """Let the first test process that asks for a run train it, and the others wait."""
    workdir.parent.mkdir(exist_ok=True)
    with workdir.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (finished := workdir.with_suffix(".finished")).exists():
            train(workdir)
            finished.touch()
    return workdir


@pytest.fixture
def interrupted(interrupted_once: Path, shell: Shell) -> None:
    """A copy of it, `run`."""
    shutil.copytree(interrupted_once, shell.directory / "run")
    take_over(shell.directory / "run")
