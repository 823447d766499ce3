"""A shell in a directory of its own, and the runs that several tests look at."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from cdnv2_jax.commands.main import main
from tests.commands.interrupted import RUN
from tests.commands.shell import DIGITS, Shell


@pytest.fixture(scope="package", autouse=True)
def compile_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands compile the same programs over and over, as separate runs must: here the second time is a look-up.

    Processes started meanwhile share it by way of their environment.
    """
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    compilation_cache.reset_cache()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


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
