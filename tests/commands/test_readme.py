"""The README's commands as typed: all of them, in order, in one shell."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cdnv2_jax.commands import quickstart
from tests.commands.shell import REPOSITORY, Shell
from tests.docs.markdown import ROOT, blocks

SHELL = [block.text for block in blocks(ROOT / "README.md") if block.language in ("", "sh", "bash")]
COMMANDS = [shlex.split(line, comments=True) for line in "".join(SHELL).replace("\\\n", " ").splitlines()]
ELSEWHERE = {"train": "test_smoke.py"}
"""Verbs that other tests run as the README does, as they take long."""


def test_begins_with_two_commands() -> None:
    assert [" ".join(command) for command in COMMANDS[:2]] == ["make quickstart", "source .venv/bin/activate"]
    assert "\t$(BIN)/cdnv2 quickstart " in (ROOT / "Makefile").read_text()
    assert {command[0] for command in COMMANDS[2:]} == {"cdnv2"}


def test_commands_in_order(shell: Shell, smoke_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a training of two steps instead of the quickstart's own, in this process."""
    monkeypatch.setattr(quickstart, "train", lambda *_: shutil.copytree(smoke_run, "runs/digits"))
    printed = shell.succeeds("main.py", "quickstart")
    next_commands = [line.strip().partition("  ")[0] for line in printed.splitlines() if line.startswith("    ")]
    assert shlex.join(COMMANDS[2]).replace("cdnv2", "python main.py") in next_commands
    assert Path("runs/digits/report.html").is_file()
    for _, *arguments in COMMANDS[2:]:
        if arguments[0] not in ELSEWHERE:
            outcome = shell.run("main.py", *arguments)
            assert outcome.status == 0, f"{arguments}: {outcome.err}"


def test_pictures_are_held_out_digits(tmp_path: Path) -> None:
    """Those of scikit-learn, 16 pixels wide."""
    quickstart.write_pictures(tmp_path)
    digits, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    for label in range(10):
        pixels = np.asarray(Image.open(tmp_path / f"{label}.png"))
        assert pixels.shape == (16, 16, 3)
        levels = np.rint(pixels[::2, ::2, 0] / 255 * 16)
        (index,) = np.flatnonzero((digits == levels.ravel()).all(1))
        assert labels[index] == label


def test_activation_is_said_only_if_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = tmp_path / "my env" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "cdnv2").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.prefix", str(scripts.parent))
    monkeypatch.setenv("PATH", os.defpath)
    assert quickstart.activation() == []  # no virtual environment
    (scripts / "activate").touch()
    assert quickstart.activation() == ["    source 'my env/bin/activate'"]
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.defpath}")
    assert quickstart.activation() == []


@pytest.mark.soak  # installs everything, for which it needs the network, and trains: four minutes
def test_as_typed_on_a_fresh_clone(tmp_path: Path) -> None:
    """All commands in one shell, in a clone of the last commit, with nothing of this environment."""
    clone = ["git", "clone", "--quiet", str(REPOSITORY), str(tmp_path / "clone")]
    subprocess.run(clone, check=True, capture_output=True, timeout=60)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_"))}
    script = "set -ve\n" + "".join(SHELL)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path / "clone", env=environment, capture_output=True, text=True, timeout=3600
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "clone" / "runs" / "smoke" / "summary.json").is_file()
