"""Where a run may write: never over anything that is not the same run's."""

import json
from pathlib import Path

import pytest

from tests.commands.shell import DIGITS, TINY, Shell


def _refused(shell: Shell, workdir: str, *arguments: str) -> str:
    complaint = shell.refuses("main.py", "train", "--config", DIGITS, "--workdir", workdir, *TINY, *arguments)
    assert f"--workdir {workdir}" in complaint
    return complaint


def test_below_a_file(shell: Shell) -> None:
    Path("file").write_text("mine")
    assert "cannot be used" in _refused(shell, "file/run")


def test_is_a_file(shell: Shell) -> None:
    Path("file").write_text("mine")
    assert "cannot be used" in _refused(shell, "file")


@pytest.mark.parametrize("arguments", [(), ("--overwrite",)])
def test_foreign_files(arguments: tuple[str, ...], shell: Shell) -> None:
    Path("home").mkdir()
    Path("home/thesis.tex").write_text("mine")
    assert "holds files that are no run's: give an empty or a new directory" in _refused(shell, "home", *arguments)


def _config_of_another_run() -> None:
    """What a run leaves that was stopped at once: its config."""
    Path("run").mkdir()
    other = {"model": {"name": "cdnv2_cifar_110"}, "epochs": 7, "seed": 0}
    Path("run/config.json").write_text(json.dumps(other))


def test_another_run(shell: Shell) -> None:
    _config_of_another_run()
    complaint = _refused(shell, "run")
    assert "holds a run of another config" in complaint
    assert "epochs" in complaint and "seed" not in complaint
    assert "--overwrite" in complaint


DAMAGED = {
    "nothing": b"",
    "half of it": b'{"epochs": 1, "mod',
    "a list": b"[1, 2]",
    "a number": b"3",
    "null": b"null",
    "no text": bytes(range(128, 256)),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_config(content: bytes, shell: Shell) -> None:
    Path("run").mkdir()
    Path("run/config.json").write_bytes(content)
    _refused(shell, "run")


def test_config_that_is_a_directory(shell: Shell) -> None:
    Path("run/config.json").mkdir(parents=True)
    _refused(shell, "run")
