"""Signals, whatever the program is doing: its exit status, and what it leaves behind. Light programs, without JAX."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands.shell import REPOSITORY

PROGRAM = """
import ctypes, os, signal, sys, time
from pathlib import Path
from cdnv2_jax import stopping
from cdnv2_jax.commands.arguments import guarded
from cdnv2_jax.files import replacing

stopping.PATIENCE, stopping.PATIENCE_WITH_STEPS = 0.2, 0.6

def stuck():
    "A call of a library that no signal interrupts: it waits for a mutex that is locked already."
    mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    library.pthread_mutex_lock(mutex)
    print("ready", flush=True)
    library.pthread_mutex_lock(mutex)

def sleep():
    print("ready", flush=True)
    time.sleep(30)

def hang_in_cleanup():
    try:
        sleep()
    finally:
        stuck()

def write():
    with replacing(Path("output")) as scratch:
        scratch.write_text("half")
        sleep()

def resume():
    stopping.resumable("asked to stop: repeat")
    sleep()

def steps(something_to_lose=True):
    stopping.resumable("asked to stop: repeat")
    with stopping.postponed():
        stopping.steps_to_lose()
        print("ready", flush=True)
        while not stopping.asked():
            time.sleep(0.01)
        time.sleep(1)  # longer than any patience: saving takes as long as it takes
        raise stopping.stopped("asked to stop: saved")

def steps_in_a_pod():
    os.environ["KUBERNETES_SERVICE_HOST"] = "10.0.0.1"
    steps()

def stuck_step():
    with stopping.postponed():
        stopping.resumable("asked to stop: repeat")
        stopping.steps_to_lose()
        stuck()

def importing():
    Path("slow_module.py").write_text("import time; print('ready', flush=True); time.sleep(30)")
    sys.path.insert(0, "")
    import slow_module

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup
sys.exit(stopping.run_program(lambda: guarded(globals()[sys.argv[1]], "program")))
"""

TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.mark.parametrize(
    ("doing", "signals", "status", "printed"),
    [
        ("sleep", [TERM], 143, "program: terminated\n"),
        ("sleep", [INT], 130, "program: interrupted\n"),
        ("write", [TERM], 143, "program: terminated\n"),
        ("write", [INT], 130, "program: interrupted\n"),
        ("resume", [TERM], 0, "asked to stop: repeat\n"),
        ("importing", [TERM], 143, "terminated\n"),
        ("importing", [INT], 130, "interrupted\n"),
        ("stuck", [TERM], 143, "terminated\n"),
        ("stuck", [INT, INT], 130, ""),
        ("hang_in_cleanup", [INT, INT], 130, ""),
        ("steps", [TERM], 0, "asked to stop: saved\n"),
        ("steps_in_a_pod", [TERM], 143, "program: asked to stop: saved\n"),
        ("stuck_step", [TERM], 0, "asked to stop: a step took more than 25 seconds"),
    ],
)
def test_signals(doing: str, signals: list[signal.Signals], status: int, printed: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, doing],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for number in signals:
            time.sleep(0.1)  # until it does what it says
            process.send_signal(number)
        rest = process.stdout.read().removeprefix("ready\n")  # again while it cleans up
    assert process.returncode == status
    assert rest.startswith(printed) and rest.count("\n") == bool(printed), rest
    assert {entry.name for entry in tmp_path.iterdir()} <= {"slow_module.py", "__pycache__"}
