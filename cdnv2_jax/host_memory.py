"""How the C library deals with memory that is given back."""

import ctypes
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec

import jax

# Of glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Lets a process that computes on the CPU keep what it frees, to be used again; True if it does from now on.

    A training step takes and frees some hundred megabytes. As a rule they go back to the system and come again page by
    page, zeroed: a fifth of the time of such a step. Needs glibc, and to be called before JAX has started its threads,
    which get heaps of their own otherwise. Where there may be an accelerator nothing is changed.
    """
    if not sys.platform.startswith("linux") or not _only_the_cpu():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Large blocks from the one heap instead of the system, and the heap never made smaller.
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_ARENA_MAX, 1)])


def _only_the_cpu() -> bool:
    """Whether JAX will compute on the CPU, without starting it to find out."""
    platforms: str | None = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if platforms:
        return platforms == "cpu"
    return not entry_points(group="jax_plugins") and not find_spec("jax_plugins") and not find_spec("libtpu")
