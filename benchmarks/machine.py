"""Where and with what a measurement was made, and how fast that machine multiplies."""

import datetime
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

PACKAGES = ("jax", "jaxlib", "flax", "torch", "numpy")


def describe() -> dict[str, Any]:
    """Processor, cores, JAX device, versions, date: what a figure needs to be understood later."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "date": datetime.date.today().isoformat(),
    }


def measured_gemm_rate(side: int = 1536, rounds: int = 7) -> float:
    """Multiply-adds per second of a float32 matrix product in JAX: the compute floor's denominator."""
    matrix = jnp.ones((side, side), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return side**3 / best


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
