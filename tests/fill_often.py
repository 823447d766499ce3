"""Fills the disk of a training run before each of the files it writes, in turn, and lets the same command finish it.

    python -m tests.fill_often        # as root, who may mount a small file system; Linux

Each run must end with status 2 and one line, and, once there is room again, like a run that was left alone. Prints what
each said; exit status 1 if one does otherwise, 0 with the reason if no file system can be mounted.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.commands.interrupted import assert_same_results
from tests.commands.shell import DIGITS, REPOSITORY, TINY

ARGUMENTS = (
    *("train", "--config", DIGITS, *TINY, "--config.data.batch_size=240", "--config.epochs=3"),
    *("--config.checkpoint_every_epochs=1", "--config.eval_every_epochs=1"),
)
MOMENTS = (
    *("lock", "config.json", "data.json", "checkpoints", "metrics.jsonl", "tensorboard", "train record"),
    *("stage record", "eval record", "checkpoints/10", "best", "masked", "condensed", "per_class.csv"),
    *("predictions.csv", "learning_curves.png", "sparsity.png", "summary.json"),
)
"""What the disk fills before: a file or directory of the run, or a line of metrics.jsonl."""

FILLING = """
import os, sys
from pathlib import Path

moment, filler = sys.argv.pop(1), sys.argv.pop(1)
done = []

def fill():
    if not done:
        done.append(True)
        descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
        for size in (1 << 20, 1):
            try:
                while True:
                    os.write(descriptor, bytes(size))
            except OSError:
                pass

def hook(event, arguments):
    writing = event == "os.mkdir" or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if writing and (f"run/{moment}" in str(arguments[0]) or f"run/.{moment}.partial" in str(arguments[0])):
        fill()

sys.addaudithook(hook)
from cdnv2_jax.commands.main import program
from cdnv2_jax.training.records import RunLog

write = RunLog._write

def filling(log, kind, record):
    if moment == f"{kind} record":
        fill()
    write(log, kind, record)

RunLog._write = filling
sys.exit(program())
"""


def run(workdir: Path, moment: str, filler: Path) -> subprocess.CompletedProcess[str]:
    """Start or resume the run in `workdir`, with a disk that fills before `moment`."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "JAX_COMPILATION_CACHE_DIR": f"{tempfile.gettempdir()}/fill_often_compiled",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-c", FILLING, moment, str(filler), *ARGUMENTS, "--workdir", str(workdir)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def fault(disk: Path, moment: str, left_alone: Path) -> str:
    """What is wrong with a run whose disk fills before `moment`, or ""; prints what it says."""
    workdir, filler = disk / "run", disk / "filler"
    shutil.rmtree(workdir, ignore_errors=True)
    filler.unlink(missing_ok=True)
    ended = run(workdir, moment, filler)
    print(f"{moment}: {ended.returncode}, {ended.stderr.strip()}", flush=True)
    if ended.returncode != 2 or ended.stderr.count("\n") != 1:
        return f"{moment}: status {ended.returncode}, {ended.stderr}"
    filler.unlink()
    resumed = run(workdir, "nothing", filler)
    if resumed.returncode:
        return f"{moment}: the same command ends with {resumed.returncode}, {resumed.stderr}"
    assert_same_results(workdir, left_alone)
    return ""


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Fills the disk of a run.")
    parser.add_argument("moments", nargs="*", metavar="FILE", help="before which files of the run (default: all)")
    moments = parser.parse_args().moments or MOMENTS
    with tempfile.TemporaryDirectory() as temporary:
        disk, left_alone = Path(temporary) / "disk", Path(temporary) / "left_alone"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
        )
        if mounted.returncode:
            print(f"skipped: no small file system can be mounted here: {mounted.stderr.strip()}")
            return 0
        try:
            run(left_alone, "nothing", disk / "filler").check_returncode()
            faults = list(filter(None, (fault(disk, moment, left_alone) for moment in moments)))
        finally:
            subprocess.run(["umount", str(disk)], check=False)
    print("\n".join(faults) or "all end like the run left alone: networks bit for bit, metrics and figures")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
