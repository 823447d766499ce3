"""Compiles the C++ kernels, once per machine, and registers them with XLA on first use."""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jaxlib.version

from cdnv2_jax.files import cache_directory

SOURCES = Path(__file__).parent / "cpu"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC")
# What -ffast-math has that is of use. The rest of it would change how the whole process treats denormals and NaN, or,
# with -fno-signed-zeros, let 0 + a · b + c · d begin with either product: differently for wide and for narrow vectors.
FLOATING_POINT = ("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
PATIENCE = 300  # seconds; compiling takes some twenty


class CannotBuild(Exception):
    """There is no built_library to be had; the message is one line that says why."""


def built_library() -> Path:
    """The compiled built_library, from the cache if it is there and whole.

    Environment variables: CXX, the compiler; CDNV2_KERNEL_FLAGS, what replaces the flags that choose the processor
    (e.g. "-march=x86-64-v3"); XDG_CACHE_HOME, where the cache lies instead of ~/.cache.

    Raises:
      CannotBuild: no compiler, it fails, or the cache is not this user's own.
    """
    compiler, flags = find_compiler(), [*FLAGS, *FLOATING_POINT, *processor_flags()]
    try:
        directory = _own_directory()
        key = _key(compiler, flags)
        return _cached(directory, key) or _compile(directory, key, compiler, flags)
    except OSError as error:
        raise CannotBuild(f"{error.filename or 'the cache'}: {error.strerror or error}") from error


def find_compiler() -> list[str]:
    """The command of the C++ compiler: $CXX, or the first of the usual ones that is installed."""
    commands = [shlex.split(os.environ["CXX"])] if os.environ.get("CXX") else [[name] for name in COMPILERS]
    for command in commands:
        if shutil.which(command[0]):
            return command
    raise CannotBuild(f"no C++ compiler ({', '.join(command[0] for command in commands)}) is installed")


def processor_flags() -> list[str]:
    """The flags that make code for this machine's processor, or for the one that CDNV2_KERNEL_FLAGS asks for."""
    native = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    return shlex.split(os.environ.get("CDNV2_KERNEL_FLAGS", native))


def _own_directory() -> Path:
    """The cache directory, made if need be; only this user may write to it, as its contents are run."""
    directory = cache_directory() / "kernels"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(directory):
        raise CannotBuild(f"{directory} can be written by others: it must be this user's alone")
    return directory


def _is_ours(path: Path) -> bool:
    status = path.stat(follow_symlinks=False)
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _key(compiler: Sequence[str], flags: Sequence[str]) -> str:
    """Names what goes into the built_library: another compiler, processor or jaxlib gives another key."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, timeout=PATIENCE).stdout
    parts = [*flags, jaxlib.version.__version__, _processor()]
    parts += [source.name + source.read_text(encoding="utf-8") for source in sorted(SOURCES.iterdir())]
    return hashlib.sha256("\0".join(parts).encode() + version).hexdigest()[:24]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    # What -march=native looks at; clock frequencies and the like change from call to call.
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in info.read_text().splitlines() if line.startswith(names)}))


def _cached(directory: Path, key: str) -> Path | None:
    """The library under that key whose contents are what its name says: loading half a file would end the process."""
    for path in directory.glob(f"{key}-*.so"):
        if path.is_file() and _is_ours(path) and path.name == _name(key, path):
            return path
    return None


def _name(key: str, file: Path) -> str:
    return f"{key}-{hashlib.sha256(file.read_bytes()).hexdigest()[:24]}.so"


def _compile(directory: Path, key: str, compiler: Sequence[str], flags: Sequence[str]) -> Path:
    with contextlib.ExitStack() as stack:
        # In a directory of its own, and moved when it is done: several processes may be building at once.
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory, prefix=".building-")))
        built = scratch / "built_library.so"
        compile_one = [*compiler, *flags, "-isystem", jax.ffi.include_dir(), "-c"]
        objects = {source: scratch / f"{source.stem}.o" for source in sorted(SOURCES.glob("*.cc"))}
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            commands = [[*compile_one, str(source), "-o", str(target)] for source, target in objects.items()]
            list(pool.map(_run, commands))
        _run([*compiler, *flags, "-shared", *map(str, objects.values()), "-o", str(built)])
        built.chmod(0o700)
        return built.replace(directory / _name(key, built))


def _run(command: Sequence[str]) -> None:
    """Raises CannotBuild, with what the compiler said first, unless the command succeeds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"{command[0]} did not finish within {PATIENCE} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise CannotBuild(f"{command[0]} failed: {said[0].strip()}")


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
        path = built_library()
        library = ctypes.CDLL(str(path))
    except (CannotBuild, OSError) as error:
        _log.warning("CPU kernels are not used, everything else works: %s", error)
        return False
    for name in TARGETS:
        jax.ffi.register_ffi_target(f"cdnv2.{name}", jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    _log.info("CPU kernels: %s", path)
    return True
