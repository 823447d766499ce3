"""A run that was interrupted ends exactly as one that was not: the same networks, bit for bit."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cdnv2_jax import load
from cdnv2_jax.commands import train
from cdnv2_jax.commands.main import main
from cdnv2_jax.training.progress import RunLog
from tests.checkpoint.networks import assert_same_network
from tests.commands.shell import DIGITS, REPOSITORY, TINY, Shell

STEPS = 9
RUN = (
    "--config",
    DIGITS,
    *TINY,
    "--config.data.batch_size=479",
    "--config.epochs=3",
    "--config.checkpoint_every_epochs=1",
)
"""Three epochs of three steps, a checkpoint after each epoch."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["train", *RUN, "--workdir", str(workdir)]) == 0
    return workdir


def _in_a_process_of_its_own(workdir: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "main.py", "train", *RUN, "--workdir", str(workdir)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _records(workdir: Path) -> list[dict[str, Any]]:
    """The metrics, without what depends on the clock; of a step's records the last, as its reader takes them."""
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = {(record["kind"], record["step"]): record for record in map(json.loads, lines)}
    for record in records.values():
        record.pop("images_per_second", None)
    return [records[key] for key in sorted(records)]


def _assert_ends_like(workdir: Path, uninterrupted: Path) -> None:
    for form in ("masked", "condensed"):
        assert_same_network(load(workdir / form), load(uninterrupted / form))
    assert _records(workdir) == _records(uninterrupted)
    ours, theirs = (json.loads((run / "summary.json").read_text()) for run in (workdir, uninterrupted))
    for summary in (ours, theirs):
        for form in ("masked", "condensed"):
            del summary[form]["ms_per_image"]
    assert ours == theirs


def _interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C once the record of step `after` is written."""
    write = RunLog.train

    def stop(log: RunLog, **record: Any) -> None:
        write(log, **record)
        if record["step"] == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunLog, "train", stop)


def test_uninterrupted_run(uninterrupted: Path) -> None:
    """What the others are compared with is a whole run."""
    steps = [record["step"] for record in _records(uninterrupted) if record["kind"] == "train"]
    assert steps == list(range(1, STEPS + 1))
    assert json.loads((uninterrupted / "summary.json").read_text())["stages_passed"] == 3


def _run_until(after: int, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        _interrupt(patch, after)
        assert shell.run("main.py", "train", *RUN, "--workdir", "run").status == 130
    assert not Path("run/summary.json").exists()


def test_interrupted_before_the_first_checkpoint(
    uninterrupted: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in the middle of a record, as a loss of power would leave it."""
    _run_until(2, shell, monkeypatch)
    with Path("run/metrics.jsonl").open("a") as metrics:
        metrics.write('{"kind": "train", "st')
    assert "resuming" not in shell.succeeds("main.py", "train", *RUN, "--workdir", "run")
    _assert_ends_like(Path("run"), uninterrupted)


def test_interrupted_between_checkpoints(uninterrupted: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    _run_until(5, shell, monkeypatch)
    shutil.copytree("run", "damaged/run")
    assert "resuming after step 3" in shell.succeeds("main.py", "train", *RUN, "--workdir", "run")
    _assert_ends_like(Path("run"), uninterrupted)
    _assert_damage_is_not_passed_over(Path("damaged/run"), shell)


def _assert_damage_is_not_passed_over(workdir: Path, shell: Shell) -> None:
    """Starting anew unasked would throw away what the user believes to continue."""
    for file in (workdir / "checkpoints" / "3" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    complaint = shell.refuses("main.py", "train", *RUN, "--workdir", workdir)
    assert f"{workdir}/checkpoints: step 3" in complaint


def test_interrupted_after_the_last_step(uninterrupted: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps done, only the end is missing: nothing is trained again."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "finish", stop)
        assert shell.run("main.py", "train", *RUN, "--workdir", "run").status == 130
    printed = shell.succeeds("main.py", "train", *RUN, "--workdir", "run")
    assert f"resuming after step {STEPS}" in printed
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    assert sum('"train"' in line for line in lines) == STEPS
    _assert_ends_like(Path("run"), uninterrupted)


def test_killed(uninterrupted: Path, shell: Shell) -> None:
    """By the operating system, without a chance to tidy up, perhaps while a checkpoint is being written."""
    process = _in_a_process_of_its_own(Path("run").absolute())
    deadline = time.monotonic() + 100
    while process.poll() is None and not Path("run/checkpoints/3").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert Path("run/checkpoints/3").exists()
    if not Path("run/summary.json").exists():
        assert "resuming after step" in shell.succeeds("main.py", "train", *RUN, "--workdir", "run")
    _assert_ends_like(Path("run"), uninterrupted)
