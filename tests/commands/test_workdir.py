"""Where a run may write: never over anything that is not the same run's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import replacing
from cdnv2_jax.training.workdir import Workdir
from tests.commands.shell import DIGITS, REPOSITORY, TINY, Shell

FOREIGN = "holds files that are not a run's: give an empty or new directory"
CONFIG_OF_ANOTHER = json.dumps({"model": {"name": "cdnv2_cifar_110"}, "epochs": 7, "seed": 0}).encode()
DAMAGED = {
    "half of it": b'{"epochs": 1, "mod',
    "a list": b"[1, 2]",
    "a number": b"3",
    "null": b"null",
    "not text": bytes(range(128, 256)),
}


@pytest.mark.parametrize(
    ("file", "content", "workdir", "arguments", "complaint"),
    [
        ("file", b"mine", "file/run", (), "cannot be used"),
        ("file", b"mine", "file", (), "cannot be used"),
        ("home/thesis.tex", b"mine", "home", (), FOREIGN),
        ("home/thesis.tex", b"mine", "home", ("--overwrite",), FOREIGN),
        ("thesis.tex", b"mine", ".", (), FOREIGN),
        ("run/config.json/notes.txt", b"mine", "run", (), FOREIGN),
        ("run/config.json", CONFIG_OF_ANOTHER, "run", (), "holds a run of another config"),
        *(("run/config.json", content, "run", (), "config.json is damaged") for content in DAMAGED.values()),
    ],
)
def test_refused(
    file: str, content: bytes, workdir: str, arguments: tuple[str, ...], complaint: str, shell: Shell
) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_bytes(content)
    said = shell.refuses("main.py", "train", "--config", DIGITS, "--workdir", workdir, *TINY, *arguments)
    assert f"--workdir {workdir}" in said and complaint in said
    if content == CONFIG_OF_ANOTHER:
        assert "epochs" in said and "seed" not in said and "--overwrite" in said


@pytest.mark.parametrize("length", [0, 1, 700])
def test_config_that_was_cut_off(length: int, tmp_path: Path) -> None:
    """As earlier versions left it on a full disk: the start of what would be written, and nothing else is there."""
    workdir, config = Workdir(tmp_path / "run"), read_config(DIGITS, [])
    with workdir.claimed(config, {}):
        text = (workdir.path / "config.json").read_text()
    (workdir.path / "data.json").unlink()
    (workdir.path / "config.json").write_text(text[:length])
    with workdir.claimed(config, {}):
        assert (workdir.path / "config.json").read_text() == text
    (workdir.path / "config.json").write_text(text[:length])
    with pytest.raises(UserError, match=r"config\.json is damaged"), workdir.claimed(config, {}):
        pass


HOLDING = """
import sys, os, time
from pathlib import Path
from cdnv2_jax.files import locked
with locked(Path("run/lock"), "it"):
    child = os.fork()  # lives on when this process is killed
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def test_second_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, whatever flags are given, until the first has ended, even if a child of it is still there."""
    monkeypatch.chdir(tmp_path)
    config = read_config(DIGITS, [])
    with Workdir(Path("run")).claimed(config, {}):
        pass
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", HOLDING], env=environment, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        for flags in ({}, {"overwrite": True}, {"accept_changes": True}):
            refused = pytest.raises(UserError, match=rf"--workdir run is in use by process {holder.pid} on ")
            with refused, Workdir(Path("run"), **flags).claimed(config, {}):
                pass
        holder.kill()
    with Workdir(Path("run")).claimed(config, {}):
        os.kill(child, 9)


def test_killed_while_replacing(tmp_path: Path) -> None:
    """Between any two operations on the file system: the directory is the old or the new one, whole."""
    config, best = read_config(DIGITS, []), tmp_path / "run" / "best"
    with Workdir(tmp_path / "run").claimed(config, {}), replacing(best) as scratch:
        scratch.mkdir()
        (scratch / "arrays").write_text("old")
    for moved in (False, True):
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        shutil.copytree(tmp_path / "run", tmp_path / "killed")
        (tmp_path / "killed/.best.partial/best").mkdir(parents=True)
        (tmp_path / "killed/.summary.json.partial").mkdir()
        if moved:
            (tmp_path / "killed/best").rename(tmp_path / "killed/.best.former")
        with Workdir(tmp_path / "killed").claimed(config, {}):
            names = {entry.name for entry in (tmp_path / "killed").iterdir()}
        assert names == {"best", "config.json", "data.json", "lock"}
        assert (tmp_path / "killed/best/arrays").read_text() == "old"
