"""A shell in a directory of its own, and the runs that several tests look at."""

import contextlib
import io
import shutil
from pathlib import Path

import pytest

from cdnv2_jax.commands.main import main
from tests.commands.interrupted import RUN, run_until
from tests.commands.shell import DIGITS, Shell


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Commands run in the test's temporary directory."""
    monkeypatch.chdir(tmp_path)
    return Shell(capsys, tmp_path)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a finished run of `configs/digits.py:smoke`. To be read only."""
    workdir = tmp_path_factory.mktemp("runs") / "smoke"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["train", "--config", DIGITS, "--workdir", str(workdir)]) == 0
    (workdir.parent / "printed.txt").write_text(printed.getvalue(), encoding="utf-8")
    return workdir


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a run of `RUN` that nothing happened to. To be read only."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["train", *RUN, "--workdir", str(workdir)]) == 0
    return workdir


@pytest.fixture(scope="session")
def interrupted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a run of `RUN` that ended after step 5, its only checkpoint after step 3."""
    workdir = tmp_path_factory.mktemp("runs") / "part"
    run_until(5, workdir)
    return workdir


@pytest.fixture
def interrupted(interrupted_once: Path, shell: Shell) -> None:
    """A copy of it, `run`."""
    shutil.copytree(interrupted_once, shell.directory / "run")
