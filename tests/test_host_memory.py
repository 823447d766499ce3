"""Keeping freed memory: where it applies, that it works."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from cdnv2_jax.commands import processes as host_memory

CODE = """
import ctypes, resource
from cdnv2_jax.commands.processes import keep_freed_memory
kept = keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(1 << 28)
    ctypes.memset(block, 1, 1 << 28)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_a_block_that_was_freed_is_not_fetched_again() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    assert (int(faults) < 100) == (kept == "True"), done.stdout


def jax_with(platforms: str | None) -> SimpleNamespace:
    """JAX as one that was told to use these platforms."""
    return SimpleNamespace(config=SimpleNamespace(jax_platforms=platforms))


@pytest.mark.parametrize(("platforms", "expected"), [("cpu", True), ("cuda,cpu", False), ("tpu", False)])
def test_only_where_the_cpu_computes(monkeypatch: pytest.MonkeyPatch, platforms: str, expected: bool) -> None:
    monkeypatch.setattr(host_memory, "jax", jax_with(platforms))
    assert host_memory._only_the_cpu() is expected


def test_plugins_may_bring_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "jax", jax_with(None))
    monkeypatch.setattr(host_memory, "entry_points", lambda group: ["cuda"])
    assert not host_memory._only_the_cpu()
