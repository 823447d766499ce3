"""The processes of a run: how they join, the loss of one, their allocator settings and compilation cache."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import jax

from cdnv2_jax.devices import is_first_process, start_devices
from cdnv2_jax.errors import LostProcess, UserError, install_command, one_line
from cdnv2_jax.terminal import be_silent

# Parameters of mallopt, from glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Make a process that computes on the CPU keep and reuse the memory it frees; return whether it now does.

    A training step allocates and frees several hundred megabytes. By default they are returned to the system, which
    hands them out again page by page, zeroed: a fifth of the time of such a step. Needs glibc, and must be called
    before JAX starts its threads, which otherwise get heaps of their own. With an accelerator nothing is changed.
    """
    if not sys.platform.startswith("linux") or not _only_the_cpu():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Allocate large blocks from the one heap instead of the system, and never shrink the heap.
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_ARENA_MAX, 1)])


def _only_the_cpu() -> bool:
    """Whether JAX will compute on the CPU, determined without initialising it."""
    platforms: str | None = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if platforms:
        return platforms == "cpu"
    return not entry_points(group="jax_plugins") and not find_spec("jax_plugins") and not find_spec("libtpu")


HEARTBEAT_SECONDS = 30  # a process that is silent for this long counts as dead, and the others end
SHUTDOWN_SECONDS = 60  # how long a finished process waits for the others
SECONDS_TO_SAVE = 10  # what a launcher should leave between SIGTERM and SIGKILL
TASKS = {
    "SLURM": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}
"""The variables in which a launcher tells a task its index and the number of tasks."""
SLURM_TASK = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
OPEN_MPI_4 = "OMPI_MCA_orte_hnp_uri"
KUBERNETES = "KUBERNETES_SERVICE_HOST"
"""The variables by which JAX recognises its launchers."""


def join_processes(*, distributed: bool, coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Connect the processes of one run; do nothing for a run of one process.

    Args:
      distributed: find the others through SLURM, Open MPI, Kubernetes or the metadata of a TPU pod.
      coordinator: HOST:PORT of the first process; None for the variable JAX_COORDINATOR_ADDRESS.
      processes: number of processes; None for the variable JAX_NUM_PROCESSES.
      process: index of this process, from 0; None for the variable JAX_PROCESS_ID.

    Raises:
      UserError: only some of the last three are given, the others are not found, or a launcher started this as one
        of several tasks without any of these flags: all of them would write to the same directory.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    processes = processes if processes is not None else _number_in("JAX_NUM_PROCESSES")
    process = process if process is not None else _number_in("JAX_PROCESS_ID")
    given = {
        "--coordinator (JAX_COORDINATOR_ADDRESS)": coordinator,
        "--processes (JAX_NUM_PROCESSES)": processes,
        "--process (JAX_PROCESS_ID)": process,
    }
    missing = [flag for flag, value in given.items() if value is None]
    if coordinator and not coordinator.rpartition(":")[2].isdecimal():
        raise UserError(f"--coordinator must be HOST:PORT, such as host0:9911, got {coordinator!r}")
    if distributed and missing:
        _refuse_missing_launcher(os.environ)
    if distributed or not missing:
        _initialize(coordinator, processes, process)
    elif len(missing) < len(given):
        raise UserError(f"{', '.join(missing)} missing: several processes need all three, or --distributed")
    else:
        _refuse_lonely_task(os.environ)


def _number_in(variable: str) -> int | None:
    value = os.environ.get(variable)
    if value is not None and not value.isdigit():
        raise UserError(f"{variable} must be a number, got {value!r}")
    return None if value is None else int(value)


def _refuse_missing_launcher(environment: Mapping[str, str]) -> None:
    """Raise UserError if JAX will not find the other processes, and say what it would need."""
    flags = "--coordinator, --processes and --process"
    if OPEN_MPI_4 in environment:
        return
    if "OMPI_COMM_WORLD_SIZE" in environment:
        raise UserError(f"--distributed: JAX recognises only version 4 of Open MPI: give {flags} instead")
    if "SLURM_JOB_ID" in environment:
        if "SLURM_STEP_NODELIST" not in environment:
            raise UserError(
                f"--distributed: this job's script runs the command itself, not as a task: write srun before it, "
                f"or give {flags}"
            )
        if lacking := [variable for variable in SLURM_TASK if variable not in environment]:
            raise UserError(f"--distributed: SLURM's {', '.join(lacking)} missing: start it with srun, or give {flags}")
        return
    if find_spec("libtpu"):
        return
    if KUBERNETES not in environment:
        raise UserError(
            f"--distributed: no launcher started this process: start it with srun or mpirun, in the pods of a Job, on "
            f"the hosts of a TPU pod (with jax[tpu]), or give {flags}"
        )
    if not find_spec("kubernetes"):
        raise UserError(
            f"--distributed in a pod needs the package kubernetes ({install_command('kubernetes')}); or set "
            f"JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID as examples/jobset_gpu.yaml does"
        )


def _initialize(coordinator: str | None, processes: int | None, process: int | None) -> None:
    jax.config.update("jax_enable_preemption_service", True)  # `asked_to_stop` needs it, whatever the environment says
    named = None not in (coordinator, processes, process)
    launched = any(rank in os.environ for rank, _ in TASKS.values())
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            # SLURM and Open MPI still give each task its GPU; in a pod nothing is left to ask its API server for.
            cluster_detection_method="deactivate" if named and not launched else None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except Exception as error:  # of JAX, or of the launcher's library or server
        what_to_do = "start all of them, with an address of the first one that all reach, and a free port"
        if not named:
            what_to_do = "check what starts them, or give --coordinator, --processes and --process"
        raise UserError(
            f"the processes of this run do not find one another ({one_line(error, 200)}): {what_to_do}"
        ) from error
    start_devices()
    be_silent(not is_first_process())


def _refuse_lonely_task(environment: Mapping[str, str]) -> None:
    for launcher, (rank, size) in TASKS.items():
        if rank in environment and environment.get(size, "1") not in ("", "1"):
            raise UserError(
                f"{launcher} started this as task {environment[rank]} of {environment[size]}: "
                f"add --distributed to make them one run"
            )


def stopping_remark(environment: Mapping[str, str]) -> str:
    """Return what to change so that the launcher gives a run the time to save when it is stopped; "" for nothing."""
    seconds = environment.get("OMPI_MCA_odls_base_sigkill_timeout", "1")
    if OPEN_MPI_4 not in environment or (seconds.isdecimal() and int(seconds) >= SECONDS_TO_SAVE):
        return ""
    return (
        f"Open MPI kills this run {seconds} s after SIGTERM to mpirun, too early to save: start it with "
        f"mpirun --mca odls_base_sigkill_timeout 30"
    )


def keep_compiled(directory: Path | None) -> None:
    """Cache compiled programs in `directory` for later runs, unless they compile at once; do nothing if it is None."""
    if directory is not None:
        if directory.exists() and not directory.is_dir():  # JAX would not complain
            raise UserError(f"--compilation-cache {directory} is not a directory")
        jax.config.update("jax_compilation_cache_dir", str(directory.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@contextlib.contextmanager
def telling_of_lost_processes() -> Iterator[None]:
    """Raise a LostProcess for the error that JAX raises in the middle of a step when another process is gone."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):  # this device's own lack of memory
            raise
        raise LostProcess(
            f"process {jax.process_index()} stops because another process of this run has stopped or cannot be reached "
            f"({one_line(error)}): start all of them again, the run resumes from its newest checkpoint"
        ) from error
