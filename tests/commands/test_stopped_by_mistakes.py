"""Runs that cannot go on: they say so in one line, and what was saved before is there to go on from."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cdnv2_jax import load
from cdnv2_jax.training.experiment import Experiment
from tests.commands.interrupted import RUN, assert_ends_like, in_a_process_of_its_own, take_over
from tests.commands.runs import checkpoints_of, records_of
from tests.commands.shell import Shell
from tests.weights.networks import contents, rewrite_description

HARDLY_ANY_ROOM = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 10, 8 << 10))
"""
"""Eight KiB for a file: enough for all of a run's but its checkpoints."""


def _state(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint, read by Orbax alone."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore((workdir / "checkpoints" / str(step) / "state").absolute())


@pytest.mark.usefixtures("interrupted")
def test_loss_that_is_no_number(uninterrupted: Path, shell: Shell) -> None:
    """The rate was raised far too high: with the old one the run goes on as if nothing had happened."""
    before = contents(Path("run/checkpoints"))
    arguments = ("main.py", "train", *RUN, "--workdir", "run", "--accept-changes")
    outcome = shell.run(*arguments, "--config.optimizer.learning_rate=1e30")
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    for mention in ("the loss is nan at step ", "digits train image ", "config.optimizer.learning_rate"):
        assert mention in outcome.err
    assert contents(Path("run/checkpoints")) == before
    assert checkpoints_of(Path("run")) == {"3"}
    assert all(np.isfinite(array).all() for array in _state(Path("run"), 3).values())
    shell.succeeds(*arguments)
    assert_ends_like(Path("run"), uninterrupted)


@pytest.mark.parametrize("rate", ["1e30", "3e38"])
def test_no_checkpoint_holds_what_is_no_number(rate: str, shell: Shell) -> None:
    """A checkpoint after every step: the weights are spoilt a step before the loss is."""
    rates = (f"--config.optimizer.learning_rate={rate}", "--config.optimizer.warmup_epochs=2")
    arguments = ("--config.data.batch_size=1437", "--config.epochs=6", *rates)
    assert shell.run("main.py", "train", *RUN, *arguments, "--workdir", "run").status == 2
    steps = sorted(map(int, checkpoints_of(Path("run"))))
    assert steps
    for step in steps:
        for name, array in _state(Path("run"), step).items():
            assert np.isfinite(array).all(), (step, name)


@pytest.mark.usefixtures("interrupted")
def test_no_room_for_a_checkpoint(uninterrupted: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file may grow: a checkpoint fails while it is written in the background, as on a full disk."""
    before = contents(Path("run/checkpoints/3"))

    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")  # which needs room too
    arguments = ("--workdir", "run", "--config.eval_every_epochs=3")
    with in_a_process_of_its_own(*arguments, before=HARDLY_ANY_ROOM) as process:
        _, complaint = process.communicate()
    assert process.returncode == 2, complaint
    ours = [line for line in complaint.splitlines() if line.startswith("main.py train: ")]  # libraries add their own
    assert len(ours) == 1 and "run/checkpoints: a checkpoint cannot be written" in ours[0]
    assert contents(Path("run/checkpoints/3")) == before
    assert "resuming after step 3" in shell.succeeds("main.py", "train", *RUN, "--workdir", "run")
    assert_ends_like(Path("run"), uninterrupted)


@pytest.mark.usefixtures("interrupted")
def test_disk_that_is_almost_full(uninterrupted: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noticed before anything is written, so that no library has anything to add."""
    before = contents(Path("run/checkpoints"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        outcome = shell.run("main.py", "train", *RUN, "--workdir", "run")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "run/checkpoints: a checkpoint needs" in outcome.err and "the disk has 0.0" in outcome.err
    assert contents(Path("run/checkpoints")) == before
    shell.succeeds("main.py", "train", *RUN, "--workdir", "run")
    assert_ends_like(Path("run"), uninterrupted)


@pytest.mark.usefixtures("interrupted")
def test_checkpoint_of_another_network(shell: Shell) -> None:
    """Changes may be accepted, but what lacks some of the weights is nothing to go on with."""
    more_weights = ("--config.model.overrides.squeeze_excite_from=0", "--accept-changes")
    outcome = shell.run("main.py", "train", *RUN, *more_weights, "--workdir", "run")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "run/checkpoints: step 3 does not fit this config" in outcome.err


def test_damaged_checkpoint(uninterrupted: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of the newest is enough; from the one before, the run comes to the same numbers again."""
    shutil.copytree(uninterrupted, "run")
    Path("run/summary.json").unlink()
    largest = max(Path("run/checkpoints/9/state").rglob("*"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    take_over(Path("run"))
    arguments = ("main.py", "train", *RUN, "--workdir", "run")
    complaint = shell.refuses(*arguments)
    assert "run/checkpoints: step 9 is damaged (the checksums of " in complaint
    assert "add --from-step 6 to resume from the one before it, which removes the later ones" in complaint
    monkeypatch.setattr(Experiment, "finish", lambda *_: None)
    before = json.loads(Path("run/checkpoints/6/description/metadata").read_text())
    other = {"versions": {"jax": "0.1.0"}, "conditions": {"cores per process": 96, "XLA_FLAGS": ""}}
    rewrite_description(Path("run/checkpoints/6"), before | {name: before[name] | other[name] for name in other})
    printed = shell.succeeds(*arguments, "--from-step", "6")
    assert "resuming after step 6\nremoved the checkpoints of the later steps 9\n" in printed
    line = next(line for line in printed.splitlines() if "numbers may differ" in line)
    assert line.startswith(f"jax {jax.__version__}, before 0.1.0; cores per process {len(os.sched_getaffinity(0))}, ")
    assert "before 96; XLA_FLAGS --xla" in line and ", before unset: from here on" in line and "devices" not in line
    assert checkpoints_of(Path("run")) == {"6", "9"}
    ours, theirs = (_state(workdir, 9) for workdir in (Path("run"), uninterrupted))
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def test_networks_of_a_failed_run_are_kept(uninterrupted: Path, shell: Shell) -> None:
    """A finished run's results survive an attempt to train something else in its place."""
    shutil.copytree(uninterrupted, "run")
    before = contents(Path("run"))
    shell.refuses("main.py", "train", *RUN, "--workdir", "run", "--config.seed=1")
    shell.refuses("main.py", "train", *RUN, "--workdir", "run", "--config.seed=1", "--accept-changes")
    assert contents(Path("run")) == before
    assert load("run/masked").name == "cdnv2_cifar_110"
    assert len(records_of(Path("run"), "train")) == 9
