"""Processes: joining those of one run, ending together, the memory they keep and the programs they cache."""

import contextlib
import ctypes
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import jax

from cdnv2_jax.errors import LostProcess, UserError, one_line

# Of glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Lets a process that computes on the CPU reuse the memory it frees; True if it does from now on.

    A training step allocates and frees some hundred megabytes. By default they go back to the system and return page
    by page, zeroed: a fifth of the time of such a step. Needs glibc, and must be called before JAX starts its threads,
    which get heaps of their own otherwise. Where there may be an accelerator nothing is changed.
    """
    if not sys.platform.startswith("linux") or not _only_the_cpu():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Large blocks come from the one heap instead of the system, and the heap never shrinks.
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_ARENA_MAX, 1)])


def _only_the_cpu() -> bool:
    """Whether JAX will compute on the CPU, found out without starting it."""
    platforms: str | None = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if platforms:
        return platforms == "cpu"
    return not entry_points(group="jax_plugins") and not find_spec("jax_plugins") and not find_spec("libtpu")


HEARTBEAT_SECONDS = 30  # a process that is silent for so long counts as dead, and the others end
SHUTDOWN_SECONDS = 60  # how long a finished process waits for the others
TASKS = {
    "SLURM": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}


def join_processes(*, distributed: bool, coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the processes of one run; does nothing for a run of one process.

    Args:
      distributed: find the others through SLURM, Open MPI, Kubernetes or the metadata of a TPU pod.
      coordinator: HOST:PORT of the first process, or the variable JAX_COORDINATOR_ADDRESS.
      processes: how many there are, or JAX_NUM_PROCESSES.
      process: which of them this is, from 0, or JAX_PROCESS_ID.

    Raises:
      UserError: some of the last three are missing, the others are not found, or a launcher started this as one of
        several tasks and no flag says so: all of them would write to the same directory.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    processes = processes if processes is not None else _number_in("JAX_NUM_PROCESSES")
    process = process if process is not None else _number_in("JAX_PROCESS_ID")
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [flag for flag, value in given.items() if value is None]
    if distributed or not missing:
        _initialize(coordinator, processes, process)
    elif len(missing) < len(given):
        raise UserError(f"{', '.join(missing)} missing: a run of several processes needs {', '.join(given)}")
    else:
        _refuse_lonely_task(os.environ)


def _number_in(variable: str) -> int | None:
    value = os.environ.get(variable)
    if value is not None and not value.isdigit():
        raise UserError(f"{variable} must be a number, got {value!r}")
    return None if value is None else int(value)


def _initialize(coordinator: str | None, processes: int | None, process: int | None) -> None:
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes of this run do not find one another: {one_line(error)}") from error


def _refuse_lonely_task(environment: Mapping[str, str]) -> None:
    for launcher, (rank, size) in TASKS.items():
        if int(environment.get(size, "1") or 1) > 1 and rank in environment:
            raise UserError(
                f"{launcher} started this as task {environment[rank]} of {environment[size]}: "
                f"add --distributed to make them one run"
            )


def keep_compiled(directory: Path | None) -> None:
    """Caches compiled programs in `directory` for later runs."""
    if directory is not None:
        if directory.exists() and not directory.is_dir():  # JAX would not complain
            raise UserError(f"--compilation-cache {directory} is no directory")
        jax.config.update("jax_compilation_cache_dir", str(directory.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def one_of_several(action: Callable[[], int]) -> int:
    """Runs `action` in one process, which may be one of several, and returns its exit status.

    When one of several processes fails, it ends at once, so that the others notice: otherwise it would wait at JAX's
    shutdown for processes that wait for it in the middle of a step.
    """
    try:
        status = action()
    except BaseException:
        if jax.process_count() == 1:
            raise
        traceback.print_exc()
        status = 1
    if status and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


@contextlib.contextmanager
def telling_of_lost_processes() -> Iterator[None]:
    """Turns what JAX raises in the middle of a step when another process has gone into a LostProcess."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):  # this device's own lack of memory
            raise
        raise LostProcess(
            f"process {jax.process_index()} stops, as another process of this run has stopped or cannot be reached "
            f"({one_line(error)}): start all of them again, the run resumes from its newest checkpoint"
        ) from error
