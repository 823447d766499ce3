"""Loads the compiled kernels and registers them with XLA, on first use."""

import ctypes
import functools
import logging
import os
import threading

import jax

from cdnv2_jax.kernels import build

TARGETS = (
    "CondensedBlock",
    "Head",
    "Stem",
    "PointwiseForward",
    "PointwiseBackward",
    "ConvForward",
    "ConvBackward",
    "PoolForward",
    "PoolBackward",
)
"""The custom calls of the library; XLA knows them as "cdnv2." and the name."""

_log = logging.getLogger("cdnv2_jax")
_lock = threading.Lock()


def available() -> bool:
    """Whether there are kernels. The first call compiles them if need be, which takes some twenty seconds.

    Where they cannot be had, one warning is logged; the layers then do without.
    """
    with _lock:
        return _loaded()


@functools.cache
def _loaded() -> bool:
    if os.name != "posix":
        return False
    try:
        path = build.library()
        library = ctypes.CDLL(str(path))
    except (build.CannotBuild, OSError) as error:
        _log.warning("CPU kernels are not used, everything else works: %s", error)
        return False
    for name in TARGETS:
        jax.ffi.register_ffi_target(f"cdnv2.{name}", jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    _log.info("CPU kernels: %s", path)
    return True
