"""Kills a training run again and again, and compares what it comes to with a run that was left alone.

    python -m tests.kill_often --kills 30 [--signal TERM] [--directory DIR]

Trains a tiny network on the digits, with a checkpoint in every epoch so that many kills fall into one being written.
The killed run is started again after each kill. At the end both final networks must be the same bit for bit; prints
what happened, exit status 1 if they differ.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from flax import nnx

from cdnv2_jax import load
from cdnv2_jax.weights.checkpoint import flat_arrays

REPOSITORY = Path(__file__).parents[1]
COMMAND = (
    *(sys.executable, "main.py", "train", "--config", "configs/digits.py:smoke"),
    *("--config.model.overrides.stages=(1,)", "--config.model.overrides.growth=(8,)", "--config.data.image_size=8"),
    *("--config.data.batch_size=120", "--config.epochs=60", "--config.checkpoint_every_epochs=1"),
    *("--config.eval_every_epochs=5",),
)
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}
LONGEST_RUN = 300  # seconds


def start(workdir: Path, log: Path) -> subprocess.Popen[bytes]:
    """Starts or goes on with the run in `workdir`."""
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with log.open("ab") as printed:
        return subprocess.Popen(
            [*COMMAND, "--workdir", str(workdir)], cwd=REPOSITORY, env=environment, stdout=printed, stderr=printed
        )


def finish(workdir: Path, log: Path) -> None:
    """Lets the run come to its end."""
    status = start(workdir, log).wait(LONGEST_RUN)
    if status:
        sys.exit(f"the run ended with {status}:\n{log.read_text()}")


def killed_run(workdir: Path, log: Path, kills: int, number: signal.Signals, chance: random.Random) -> list[str]:
    """Starts the run, kills it at a random moment after it is under way, `kills` times; then lets it end.

    Returns what was found in the directory of checkpoints after each kill.
    """
    found = []
    while len(found) < kills and not (workdir / "summary.json").exists():
        process = start(workdir, log)
        metrics = workdir / "metrics.jsonl"
        before = metrics.stat().st_size if metrics.exists() else 0
        deadline = time.monotonic() + LONGEST_RUN
        while process.poll() is None and (not metrics.exists() or metrics.stat().st_size == before):
            if time.monotonic() > deadline:
                process.kill()
                sys.exit(f"the run does not get under way:\n{log.read_text()}")
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.4))
        process.send_signal(number)
        status = process.wait(LONGEST_RUN)
        if number == signal.SIGTERM and status != 0:
            sys.exit(f"SIGTERM: the run ended with {status}:\n{log.read_text()}")
        checkpoints = workdir / "checkpoints"
        found.append(" ".join(sorted(entry.name for entry in checkpoints.iterdir())) if checkpoints.exists() else "")
    finish(workdir, log)
    return found


def differences(ours: Path, theirs: Path) -> list[str]:
    """Names of the arrays that differ between the final networks of two runs."""
    different = []
    for form in ("masked", "condensed"):
        arrays = [flat_arrays(nnx.state(load(run / form))) for run in (ours, theirs)]
        for name, array in arrays[0].items():
            if np.asarray(array).tobytes() != np.asarray(arrays[1][name]).tobytes():
                different.append(f"{form}/{name}")
    return different


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Kill a run again and again and compare its end.")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--signal", choices=SIGNALS, default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="an empty one to work in (default: a temporary one)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.directory or Path(temporary)
        finish(directory / "left_alone", directory / "left_alone.log")
        number, chance = SIGNALS[options.signal], random.Random(options.seed)
        found = killed_run(directory / "killed", directory / "killed.log", options.kills, number, chance)
        different = differences(directory / "killed", directory / "left_alone")
    half_written = sum("tmp" in names for names in found)
    print(f"{len(found)} of {options.kills} signals, {half_written} of them with a checkpoint half written", flush=True)
    print("networks differ: " + ", ".join(different) if different else "final networks are the same, bit for bit")
    return 1 if different or len(found) < options.kills else 0


if __name__ == "__main__":
    sys.exit(main())
