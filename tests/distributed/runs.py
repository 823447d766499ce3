"""Runs of the command line in processes of their own, with as many simulated devices as a test wants."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.commands.shell import DIGITS, REPOSITORY, TINY

RUN = (
    *("--config", DIGITS, *TINY, "--config.model.dtype=float64"),
    *(
        "--config.epochs=2",
        "--config.data.batch_size=96",
        "--config.log_every_steps=1",
        "--config.eval_every_epochs=99",
    ),
)
"""28 steps of the smallest network. In float64, as training multiplies rounding errors: float32 runs part by 1e-2."""

STEPS = 28

PATIENCE = 600  # seconds; a run takes some ten, many times that when the machine is busy


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of one run. Attributes: handles; logs (what each printed); workdir."""

    handles: Sequence[subprocess.Popen[bytes]]
    logs: Sequence[Path]
    workdir: Path

    def wait(self) -> list[int]:
        """The exit status of each; those that hang are killed."""
        end = time.monotonic() + PATIENCE
        for handle in self.handles:
            try:
                handle.wait(max(1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                handle.kill()
                handle.wait()
        return [handle.returncode for handle in self.handles]

    def succeed(self) -> None:
        """Waits, and asserts that all went well."""
        statuses = self.wait()
        assert statuses == [0] * len(statuses), "\n".join(log.read_text() for log in self.logs)

    def signal_at(self, step: int, process: int, number: signal.Signals) -> None:
        """Sends a signal to one process once `step` is logged."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.handles[process].poll() is None:
            if len(losses(self.workdir)) >= step:
                break
            time.sleep(0.02)
        self.handles[process].send_signal(number)

    def log(self, process: int) -> str:
        """What a process printed."""
        return self.logs[process].read_text()


def start(workdir: Path, *overrides: str, processes: int = 1, devices: int = 1, run: Sequence[str] = RUN) -> Processes:
    """Starts `main.py train`, in `processes` processes with `devices` devices each."""
    arguments = ("train", "--workdir", str(workdir), *overrides)
    return start_command(workdir, *arguments, processes=processes, devices=devices, run=run)


def start_command(
    workdir: Path, verb: str, *arguments: str, processes: int = 1, devices: int = 1, run: Sequence[str] = RUN
) -> Processes:
    """Starts any verb of `main.py` with a run's config; logs lie beside `workdir`."""
    settings = environment(workdir, devices)
    port = _free_port()
    handles, logs = [], []
    for process in range(processes):
        command = [sys.executable, "main.py", verb, *run, *arguments]
        if processes > 1:
            command += ["--coordinator", f"localhost:{port}", "--processes", f"{processes}", "--process", f"{process}"]
        logs.append(workdir.parent / f"{workdir.name}.{verb}.{process}.log")
        with logs[-1].open("wb") as log:
            handles.append(subprocess.Popen(command, cwd=REPOSITORY, env=settings, stdout=log, stderr=log))
    return Processes(handles, logs, workdir)


def environment(workdir: Path, devices: int = 1) -> dict[str, str]:
    """The environment of a run's processes, with `devices` simulated devices each."""
    return {
        **os.environ,
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def finished(workdir: Path, *overrides: str, processes: int = 1, devices: int = 1, run: Sequence[str] = RUN) -> Path:
    """The work directory of a run that ended well."""
    start(workdir, *overrides, processes=processes, devices=devices, run=run).succeed()
    return workdir


def losses(workdir: Path) -> list[float]:
    """The loss of every step; of steps done twice the later."""
    return [record["loss"] for record in _training_records(workdir)]


def _training_records(workdir: Path) -> list[dict[str, Any]]:
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    last = {record["step"]: record for record in records if record["kind"] == "train"}
    return [last[step] for step in sorted(last)]
