"""A run that was interrupted ends exactly as one that was not: the same networks, bit for bit."""

import os
import shutil
import signal
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from cdnv2_jax import load, save, stopping
from cdnv2_jax.errors import UserError
from cdnv2_jax.training.checkpoints import BestNetwork, write_errors
from cdnv2_jax.training.experiment import Experiment
from cdnv2_jax.weights.checkpoint import load_metadata
from tests.commands.interrupted import (
    RUN,
    STEPS,
    assert_ends_like,
    in_a_process_of_its_own,
    run_until,
    timeless_records,
    wait_until,
)
from tests.commands.runs import checkpoints_of, records_of, scalars_of, summary_of
from tests.commands.shell import DIGITS, TINY, Shell
from tests.weights.networks import network

IGNORING_INTERRUPTS = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
WORKERS = "--config.data.workers=2"
EVALUATION = ("--config", DIGITS, *TINY)


def test_uninterrupted_run(uninterrupted: Path) -> None:
    """What the others are compared with is a whole run."""
    steps = [record["step"] for record in timeless_records(uninterrupted) if record["kind"] == "train"]
    assert steps == list(range(1, STEPS + 1))
    assert summary_of(uninterrupted)["stages_passed"] == 3
    assert checkpoints_of(uninterrupted) == {"6", "9"}  # the newest two, as the config says


def test_best_network(uninterrupted: Path, shell: Shell) -> None:
    """The first fully pruned network with the highest accuracy, which can be condensed."""
    evaluations = records_of(uninterrupted, "eval")
    assert [record["step"] for record in evaluations] == [3, 6, 9]
    last_stage = max(record["step"] for record in records_of(uninterrupted, "stage"))
    assert 3 < last_stage < 6
    scores = [
        (record[name], record["step"], weights)
        for record in evaluations
        if record["step"] > last_stage
        for name, weights in (("top1", "EMA"), ("live_top1", "live"))
    ]
    best = max(scores, key=lambda score: score[0])  # of equal ones the first
    kept = load_metadata(uninterrupted / "best")["metadata"]
    assert (kept["top1"], kept["step"], kept["weights"]) == best and kept["stage"] == 3
    assert load(uninterrupted / "best").name == "cdnv2_cifar_110"
    printed = shell.succeeds("main.py", "eval", *EVALUATION, "--checkpoint", uninterrupted / "best")
    assert f"top-1 {best[0]:.4%}" in printed
    shell.succeeds("main.py", "condense", "--checkpoint", uninterrupted / "best", "--output", "small")


def test_best_of_an_earlier_stage_is_replaced(tmp_path: Path) -> None:
    """Even by one of lower score: an unpruned network cannot be condensed."""
    best = BestNetwork(tmp_path / "best")

    def offered(step: int, stage: int, score: float) -> bool:
        def save_it(path: Path, metadata: dict[str, Any]) -> None:
            save(path, network("pruned"), metadata=metadata, overwrite=True)

        return best.offer(save_it, step=step, stage=stage, name="top1", score=score)

    assert [offered(1, 0, 0.9), offered(2, 3, 0.5), offered(3, 3, 0.4), offered(4, 3, 0.6)] == [True, True, False, True]


def test_interrupted_before_the_first_checkpoint(uninterrupted: Path, shell: Shell) -> None:
    """And in the middle of a record, as a loss of power would leave it."""
    run_until(2, Path("run"))
    with Path("run/metrics.jsonl").open("a") as metrics:
        metrics.write('{"kind": "train", "st')
    assert "resuming" not in shell.succeeds("main.py", "train", *RUN, "--workdir", "run")
    assert_ends_like(Path("run"), uninterrupted)


@pytest.mark.usefixtures("interrupted")
def test_interrupted_between_checkpoints(uninterrupted: Path, shell: Shell) -> None:
    shutil.copytree("run", "damaged/run")
    assert "resuming after step 3" in shell.succeeds("main.py", "train", *RUN, "--workdir", "run", "--resume")
    assert_ends_like(Path("run"), uninterrupted)
    # Steps 4 and 5 are in there twice, and it is the second time that counts.
    losses = {record["step"]: record["loss"] for record in records_of(Path("run"), "train")}
    shown = {step: value for (tag, step), value in scalars_of(Path("run")).items() if tag == "train/loss"}
    assert shown == pytest.approx(losses)
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
        patch.setattr(Experiment, "finish", stop)
        assert shell.run("main.py", "train", *RUN, "--workdir", "run").status == 130
    printed = shell.succeeds("main.py", "train", *RUN, "--workdir", "run")
    assert f"resuming after step {STEPS}" in printed
    assert len(records_of(Path("run"), "train")) == STEPS
    assert_ends_like(Path("run"), uninterrupted)


@pytest.mark.usefixtures("interrupted")
def test_asked_to_stop_while_evaluating(uninterrupted: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step before it is saved, and the evaluation is the first thing that the resumed run does."""
    check = stopping.check

    def asked(*_: Any) -> None:
        if stopping._request.postponed:  # not at the end, where both networks are evaluated
            stopping._on_signal(signal.SIGTERM, None)
        check()

    rarely = "--config.checkpoint_every_epochs=3"  # none is due at this step
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "_request", stopping._Request())
        patch.setattr(stopping, "check", asked)
        printed = shell.succeeds("main.py", "train", *RUN, rarely, "--workdir", "run")
    assert "asked to stop: saved after step 6; repeat the command to resume" in printed
    assert [record["step"] for record in records_of(Path("run"), "eval")] == [3]
    shell.succeeds("main.py", "train", *RUN, "--workdir", "run")
    assert len(records_of(Path("run"), "train")) == STEPS + 2  # steps 4 and 5 had been lost before, none was now
    assert [record["step"] for record in records_of(Path("run"), "eval")] == [3, 6, 9]
    assert_ends_like(Path("run"), uninterrupted)


def test_killed(uninterrupted: Path, shell: Shell) -> None:
    """By the operating system, without a chance to tidy up, perhaps while a checkpoint is being written.

    Nobody is left to tell the processes that read images: they must notice.
    """
    with in_a_process_of_its_own("--workdir", "run", WORKERS) as process:
        wait_until(process, Path("run"), 5, checkpoint=3)
        assert len(_processes(process.pid)) > 2
        process.kill()
        process.communicate()
    deadline = time.monotonic() + 20
    while _processes(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _processes(process.pid)
    assert "resuming after step" in shell.succeeds("main.py", "train", *RUN, "--workdir", "run")
    assert_ends_like(Path("run"), uninterrupted)


@pytest.mark.soak  # another process; that a worker which is killed is noticed is seen in tests/data/test_watchdog.py
def test_a_worker_is_killed(uninterrupted: Path, shell: Shell) -> None:
    """By the operating system, when memory runs out, here before its first batch: later ones may not be needed."""
    run_until(4, Path("run"))
    with in_a_process_of_its_own("--workdir", "run", WORKERS) as process:
        while not (workers := _processes(process.pid, "spawn_main")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        os.kill(workers[0], signal.SIGKILL)
        _, complaint = process.communicate(timeout=100)
    assert (process.returncode, complaint.count("\n")) == (1, 1), complaint
    assert complaint.startswith("main.py train: an input worker ") and "was killed by SIGKILL" in complaint
    assert not _processes(process.pid)
    assert "resuming after step 3" in shell.succeeds("main.py", "train", *RUN, "--workdir", "run")
    assert_ends_like(Path("run"), uninterrupted)


@pytest.mark.soak  # another process; that SIGTERM saves and the run goes on the same is seen on several devices, too
def test_asked_to_stop(uninterrupted: Path, shell: Shell) -> None:
    """SIGTERM to the whole job, as a cluster sends it before it takes a machine away: nothing is lost, and the exit
    status is 0. Processes that read images leave it to the one that trains.

    Started as `nohup … &` starts it, with SIGINT ignored: Ctrl-C is meant for other processes, and the run goes on.
    """
    with in_a_process_of_its_own("--workdir", "run", WORKERS, before=IGNORING_INTERRUPTS) as process:
        wait_until(process, Path("run"), 2)
        os.killpg(process.pid, signal.SIGINT)
        wait_until(process, Path("run"), 4)
        os.killpg(process.pid, signal.SIGTERM)
        printed, complaint = process.communicate()
    assert (process.returncode, complaint) == (0, "")
    done = len(records_of(Path("run"), "train"))
    assert 4 <= done < STEPS
    assert f"asked to stop: saved after step {done}; repeat the command to resume" in " ".join(printed.split())
    assert not Path("run/summary.json").exists()
    printed = shell.succeeds("main.py", "train", *RUN, "--workdir", "run")
    assert f"resuming after step {done}" in printed
    assert len(records_of(Path("run"), "train")) == STEPS  # none of them twice
    assert_ends_like(Path("run"), uninterrupted)


@pytest.mark.soak  # another process; what it prints and its status are seen above, that signals reach no worker too
def test_interrupted_from_the_keyboard(shell: Shell) -> None:
    """Shells signal all processes of a job, too."""
    with in_a_process_of_its_own("--workdir", "run", WORKERS) as process:
        wait_until(process, Path("run"), 4)
        os.killpg(process.pid, signal.SIGINT)
        printed, complaint = process.communicate()
    assert (process.returncode, complaint) == (130, "main.py train: interrupted\n")
    assert "asked to stop" not in printed


def _processes(group: int, containing: str = "") -> list[int]:
    """The processes of a process group that are alive (not zombies), or those with a text in their command line."""
    listing = ["ps", "-ewwo", "pid=,pgid=,stat=,args="]
    listed = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    fields = [line.split(None, 3) for line in listed.splitlines()]
    return [
        int(process)
        for process, owner, state, *rest in fields
        if owner == str(group) and not state.startswith("Z") and containing in "".join(rest)
    ]


def test_what_a_failed_write_drops_is_not_warned_of() -> None:
    """Orbax saves in coroutines; those that it did not begin would be warned of below the message."""

    async def saving() -> None: ...

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        dropped = saving()
        with pytest.raises(UserError, match="run: a checkpoint cannot be written"), write_errors(Path("run")):
            raise OSError("away")
        del dropped
    assert not warned
