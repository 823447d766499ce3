"""Describe the machine of a measurement, and measure its rates of multiplying and copying."""

import datetime
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

PACKAGES = ("jax", "jaxlib", "flax", "torch", "onnxruntime", "onnx", "numpy")


def describe(threads: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return processor, cores, JAX device, versions and date, without which a timing means little.

    Args:
      threads: framework → number of its threads; JAX uses one per core.
    """
    return {
        "processor": _processor(),
        "cores": cores(),
        "device": jax.devices()[0].device_kind,
        "driver": _driver(),
        "threads": dict(threads or {}),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "date": datetime.date.today().isoformat(),
    }


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0))


def machine_kind() -> str:
    """Return a directory name for machines of this kind: "cpu_2_cores", "nvidia_h100_80gb_hbm3"."""
    if jax.default_backend() == "cpu":
        return f"cpu_{cores()}_cores"
    return re.sub(r"\W+", "_", jax.devices()[0].device_kind.lower()).strip("_")


def measured_rates() -> dict[str, float]:
    """Measure the rates that turn floors into times."""
    return {
        "gemm_multiply_adds_per_second": measured_gemm_rate(),
        "copied_bytes_per_second": measured_copy_rate(),
    }


def measured_gemm_rate(side: int = 1536, rounds: int = 7, dtype: DTypeLike = jnp.float32) -> float:
    """Measure multiply-adds per second of a matrix product in JAX, for the compute floor."""
    matrix = jnp.ones((side, side), dtype)
    product = jax.jit(jnp.matmul)
    return side**3 / _best_seconds(lambda: product(matrix, matrix), rounds)


def measured_copy_rate(size: int = 2**28, rounds: int = 7) -> float:
    """Measure bytes read and written per second by an elementwise pass over `size` bytes, for the memory floor.

    In place, so that neither page faults nor reads of overwritten memory are included.
    """
    state = jnp.zeros(size // 4, jnp.float32)
    negate = jax.jit(jnp.negative, donate_argnums=0)

    def pass_over() -> jax.Array:
        nonlocal state
        state = negate(state)
        return state

    return 2 * size / _best_seconds(pass_over, rounds)


def _best_seconds(call: Callable[[], jax.Array], rounds: int) -> float:
    call().block_until_ready()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        call().block_until_ready()
        best = min(best, time.perf_counter() - start)
    return best


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    """Return the version of NVIDIA's driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    printed = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    return printed[0] if printed else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
