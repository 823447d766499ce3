"""How all tests run: programs are compiled quickly, kept for the next test that needs them, and dropped with a file."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

# Before JAX starts. Nearly all that tests compile takes longer to compile than to run, most of it in LLVM; started
# processes inherit this. `make soak` compiles as users do.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    flags = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
    if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12):
        flags.append("--xla_cpu_use_fusion_emitters=false")  # later versions end the process at a flag they lack
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()

import jax
import psutil
import pytest
from jax.experimental.compilation_cache import compilation_cache

from cdnv2_jax.commands import train
from cdnv2_jax.report.figures import milliseconds_per_call
from cdnv2_jax.training import experiment


@pytest.fixture(scope="session")
def for_all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def compile_once(for_all_workers: Path) -> Iterator[None]:
    """Tests compile the same programs over and over, as separate runs must: here the second time is a look-up.

    Processes started meanwhile share it by way of their environment.
    """
    settings = {
        "jax_compilation_cache_dir": str(for_all_workers / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    compilation_cache.reset_cache()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield


@pytest.fixture(scope="session", autouse=True)
def multiply_exactly() -> Iterator[None]:
    """GPUs and TPUs would round products of float32, and what tests compare agrees to the last bits."""
    with pytest.MonkeyPatch.context() as patch:
        jax.config.update("jax_default_matmul_precision", "highest")
        patch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")
        yield


@pytest.fixture(scope="session", autouse=True)
def time_networks_once() -> Iterator[None]:
    """Runs end with timing their networks, many times over: no test looks at how long they took."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "milliseconds_per_call", partial(milliseconds_per_call, rounds=1))
        yield


@pytest.fixture(scope="session", autouse=True)
def give_back_freed_memory() -> Iterator[None]:
    """Training keeps what it frees for its next step, for the rest of the process: here other tests come after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "keep_freed_memory", lambda: False)
        yield


def pytest_collection_finish() -> None:
    """Python looks for cycles among a million objects that live as long as the process: a fifteenth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


RESIDENT = 1.5e9
"""Bytes of memory above which a test process drops what it has compiled."""


@pytest.fixture(scope="module", autouse=True)
def drop_programs() -> Iterator[None]:
    """Compiled programs are most of a test process's memory, and few outlive their file. Dropping them takes a second,
    and tracing again what other files share takes more."""
    yield
    if psutil.Process().memory_info().rss < RESIDENT:
        return
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="module")
def x64() -> Iterator[None]:
    """64-bit mode for a whole test module: `pytestmark = pytest.mark.usefixtures("x64")`."""
    with jax.enable_x64(True):
        yield
