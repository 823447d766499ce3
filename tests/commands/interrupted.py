"""Runs of nine steps that are interrupted in some way, and what they must end like."""

import contextlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cdnv2_jax import load
from cdnv2_jax.commands.main import main
from cdnv2_jax.files import locked
from cdnv2_jax.training.records import RunLog
from cdnv2_jax.weights.checkpoint import load_metadata
from tests.commands.runs import checkpoints_of, records_of, summary_of
from tests.commands.shell import DIGITS, REPOSITORY, TINY
from tests.weights.networks import assert_same_network

STEPS = 9
RUN = (
    *("--config", DIGITS, *TINY, "--config.data.batch_size=479", "--config.epochs=3"),
    *("--config.checkpoint_every_epochs=1", "--config.eval_every_epochs=1"),
)
"""Three epochs of three steps, an evaluation and a checkpoint after each epoch."""

SLOWLY = """
import signal, sys, time

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, and inherited so, under nohup
{before}
from cdnv2_jax.commands.main import program
from cdnv2_jax.training.records import RunLog

write = RunLog.train

def slowly(log, **record):
    write(log, **record)
    time.sleep(0.3)

RunLog.train = slowly
sys.exit(program())
"""
"""`main.py`, but with a third of a second to each step: time enough for others to do something to it."""


def in_a_process_of_its_own(*arguments: str | Path, before: str = "") -> subprocess.Popen[str]:
    """A training process, a job of its own; what it prints is kept. `before` is code that it runs first."""
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY.format(before=before), "train", *RUN, *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(process: subprocess.Popen[str], workdir: Path, steps: int, *, checkpoint: int | None = None) -> None:
    """Returns once that many steps are written down, and a checkpoint, which is written in the background."""
    deadline = time.monotonic() + 200
    metrics = workdir / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        written = metrics.exists() and metrics.read_text().count('"train"') >= steps
        if written and (checkpoint is None or str(checkpoint) in checkpoints_of(workdir)):
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate())


def run_until(after: int, workdir: Path) -> None:
    """A run that Ctrl-C ends once the record of step `after` is written."""
    write = RunLog.train

    def stop(log: RunLog, **record: Any) -> None:
        write(log, **record)
        if record["step"] == after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(RunLog, "train", stop)
        assert main(["train", *RUN, "--workdir", str(workdir)]) == 130
    assert not (workdir / "summary.json").exists()


def timeless_records(workdir: Path) -> list[dict[str, Any]]:
    """The metrics, without what depends on the clock; of a step's records the last, as its reader takes them."""
    records = {(record["kind"], record["step"]): record for record in records_of(workdir)}
    for record in records.values():
        record.pop("images_per_second", None)
        record.pop("input_wait", None)
    return [records[key] for key in sorted(records)]


def assert_ends_like(workdir: Path, uninterrupted: Path) -> None:
    """The same results and the same checkpoints kept."""
    assert_same_results(workdir, uninterrupted)
    assert checkpoints_of(workdir) == checkpoints_of(uninterrupted)


def assert_same_results(workdir: Path, uninterrupted: Path) -> None:
    """The same networks bit for bit, the same metrics and figures."""
    for network in ("masked", "condensed", "best"):
        assert_same_network(load(workdir / network), load(uninterrupted / network))
    assert load_metadata(workdir / "best")["metadata"] == load_metadata(uninterrupted / "best")["metadata"]
    assert timeless_records(workdir) == timeless_records(uninterrupted)
    ours, theirs = summary_of(workdir), summary_of(uninterrupted)
    for summary in (ours, theirs):
        for form in ("masked", "condensed"):
            del summary[form]["ms_per_image"], summary[form]["bytes_on_disk"]  # stored with times
    assert ours == theirs


def take_over(workdir: Path) -> None:
    """Make this process the last holder of a copied run's lock, which a command that is refused leaves so."""
    with locked(workdir / "lock", str(workdir)):
        pass
