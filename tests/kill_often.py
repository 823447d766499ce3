"""Interrupts a training run at random moments of its whole life, and compares what it comes to with one left alone.

    python -m tests.kill_often --kills 40 [--signal TERM] [--directory DIR] [--bucket]

Trains a tiny network on the digits, with a checkpoint in every epoch so that many moments fall into one being written.
Each start is interrupted at a moment between the start of Python and what a whole run takes, and the command is
repeated until the run has finished; then the next run begins. Each must end like the one that was left alone, on a
disk: networks bit for bit, metrics and summary except for timings. With --bucket, the interrupted runs are in one.
Prints what happened; exit status 1 if a run or a status differs.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from cdnv2_jax.paths import as_path, is_remote
from tests.bucket_server import BUCKET, bucket_server, downloaded
from tests.commands.interrupted import assert_same_results
from tests.commands.shell import DIGITS, REPOSITORY, TINY

COMMAND = (
    *(sys.executable, "main.py", "train", "--config", DIGITS, *TINY, "--config.data.batch_size=120"),
    *("--config.epochs=24", "--config.checkpoint_every_epochs=1", "--config.eval_every_epochs=2"),
)
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}
STATUSES = {
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGTERM: {0, 143, -signal.SIGTERM},  # the last while Python starts and ends
}
LONGEST_RUN = 300  # seconds


def start(workdir: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start or resume the run in `workdir`."""
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(log.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with log.open("ab") as printed:
        return subprocess.Popen(
            [*COMMAND, "--workdir", str(workdir)], cwd=REPOSITORY, env=environment, stdout=printed, stderr=printed
        )


def finish(workdir: Path, log: Path) -> float:
    """Let the run come to its end; return how many seconds that took."""
    begin = time.monotonic()
    status = start(workdir, log).wait(LONGEST_RUN)
    if status:
        sys.exit(f"the run ended with {status}:\n{log.read_text()}")
    return time.monotonic() - begin


def interrupt(workdir: Path, log: Path, number: signal.Signals, moment: float) -> str | None:
    """Start the run and send a signal after `moment` seconds; return what it did then, None if it had finished."""
    process = start(workdir, log)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        doing = what_it_does(workdir)
        process.send_signal(number)
    else:
        doing = None
    status = process.wait(LONGEST_RUN)
    if status not in (STATUSES[number] if doing else {0}) | ({0} if (workdir / "summary.json").exists() else set()):
        sys.exit(f"{doing or 'uninterrupted'}: the run ended with {status}:\n{log.read_text()}")
    return doing and f"{doing}: {status}"


def what_it_does(workdir: Path) -> str:
    """What a run is doing, by the files that are there."""
    if (workdir / "summary.json").exists():
        return "ending"
    if list(workdir.glob(".*.partial")):
        return "writing results"
    if (workdir / "learning_curves.png").exists() or (workdir / "masked").exists():
        return "finishing"
    if list(workdir.glob("checkpoints/*tmp*")):
        return "writing a checkpoint"
    return "training" if (workdir / "metrics.jsonl").exists() else "starting"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Interrupt runs again and again and compare their ends.")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--signal", choices=SIGNALS, default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bucket", action="store_true", help="interrupt runs in a bucket of an emulator")
    parser.add_argument("--directory", type=Path, help="an empty one to work in (default: a temporary one)")
    options = parser.parse_args(arguments)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        directory = runs_in = options.directory or Path(temporary)
        if options.bucket:
            stack.enter_context(bucket_server())
            runs_in = as_path(f"gs://{BUCKET}")
        finish(directory / "compiling", directory / "compiling.log")
        whole = finish(directory / "left_alone", directory / "left_alone.log")
        number, chance, runs = SIGNALS[options.signal], random.Random(options.seed), 0
        while found.total() < options.kills:
            runs += 1
            workdir, log = runs_in / f"run{runs}", directory / f"run{runs}.log"
            while not (workdir / "summary.json").exists():
                if found.total() == options.kills:
                    finish(workdir, log)
                elif doing := interrupt(workdir, log, number, chance.uniform(0, whole)):
                    found[doing] += 1
            if is_remote(workdir):
                workdir = downloaded(workdir, directory / workdir.name)
            assert_same_results(workdir, directory / "left_alone")
    print(f"{found.total()} signals within {whole:.0f} seconds of a start; doing what, and exit status:")
    print("\n".join(f"{count:4} {doing}" for doing, count in sorted(found.items())))
    print(f"all {runs} runs end like the one left alone: networks bit for bit, metrics and figures", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
