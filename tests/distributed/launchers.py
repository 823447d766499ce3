"""SLURM and Open MPI on this machine: their daemons, on the loopback interface alone, and how they start a command."""

import contextlib
import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.commands.shell import REPOSITORY

PACKAGES = {
    "slurm-wlm munge": ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol"),
    "openmpi-bin": ("mpirun",),
}

MPIRUN = (
    *("mpirun", "--allow-run-as-root", "-np", "2", "--bind-to", "none"),
    *("--mca", "oob_tcp_if_include", "lo", "--mca", "btl_tcp_if_include", "lo"),
)

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 GraceTime=120 State=UP
PartitionName=high Nodes={host} PriorityTier=2 State=UP
"""
"""Jobs in partition "high" preempt those in "low", which have two minutes to end."""


def missing(packages: str) -> str:
    """How to install Debian packages; "" if they are there."""
    programs = [name for name in PACKAGES[packages] if not shutil.which(name, path=_path())]
    return f"{', '.join(programs)} missing: apt-get install {packages}" if programs else ""


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin"  # where Debian has daemons, also for users whose path lacks it


@contextlib.contextmanager
def slurm(root: Path) -> Iterator[dict[str, str]]:
    """A cluster of one node with everything under `root`; yields the environment for its commands."""
    names = {"root": root, "user": getpass.getuser(), "host": socket.gethostname().partition(".")[0]}
    ports = {"controller_port": _free_port(), "node_port": _free_port()}
    for folder in ("state", "spool"):
        (root / folder).mkdir()
    (root / "slurm.conf").write_text(CONFIGURATION.format(**names, **ports, cores=max(2, os.cpu_count() or 2)))
    (root / "key").write_bytes(os.urandom(1024))
    (root / "key").chmod(0o600)
    environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(root / "slurm.conf")}
    munge = {"socket": "munge.socket", "key-file": "key", "log-file": "munged.log", "pid-file": "munged.pid"}
    options = [f"--{name}={root / file}" for name, file in {**munge, "seed-file": "seed"}.items()]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in (["munged", "-F", "-f", "--origin=127.0.0.1", *options], ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (root / f"{command[0]}.out").open("wb") as log:
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(1)  # each talks to the one before
        wait_for(lambda: " idle " in _answer("sinfo", "-h", "-o", "%P %t %N", environment=environment), seconds=60)
        yield environment
    finally:
        _answer("scancel", "--user", names["user"], environment=environment)
        time.sleep(2)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _answer(*command: str, environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def wait_for(condition, seconds: float) -> None:
    """Waits until a condition holds; an AssertionError after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.2)


def documented_script(command: Sequence[str], workdir: Path) -> str:
    """The batch script of docs/distributed.md, for a node of two cores without GPUs and another command."""
    page = (REPOSITORY / "docs/distributed.md").read_text(encoding="utf-8")
    script = next(block for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL) if "#SBATCH" in block)
    for documented, ours in {
        "--nodes=2": "--nodes=1",
        "--ntasks-per-node=8": "--ntasks-per-node=2",
        "#SBATCH --gpus-per-node=8\n": "",
        "--cpus-per-task=8": "--cpus-per-task=1",
        "runs/a/": f"{workdir}/",
    }.items():
        assert documented in script, f"the script in the documentation has changed: {documented}"
        script = script.replace(documented, ours)
    words = " ".join(f"'{word}'" for word in command)
    script, replaced = re.subn(r"cdnv2 train .*?--distributed", lambda _: words, script, flags=re.DOTALL)
    assert replaced == 1
    return script


class Job:
    """A job of `sbatch`. Attributes: number; log (what its tasks and its script printed)."""

    def __init__(self, script: str, folder: Path, environment: dict[str, str], *options: str):
        self.log, self._environment = folder / "job.log", environment
        command = ["sbatch", "--parsable", "--partition=low", f"--output={self.log}", *options]
        sent = subprocess.run(
            command, input=script, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
        )
        self.number = sent.stdout.strip()

    def run(self, *command: str) -> str:
        """What a command of SLURM prints; JOB stands for this job's number."""
        words = [self.number if word == "JOB" else word for word in command]
        return _answer(*words, environment=self._environment)

    @property
    def state(self) -> str:
        """RUNNING, PENDING, COMPLETED, …"""
        return self.run("squeue", "-h", "-t", "all", "-j", self.number, "-o", "%T").strip()
