"""Compile the C++ kernels once per machine and register them with XLA on first use."""

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

from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.files import cache_directory

SOURCES = Path(__file__).parent / "cpu"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC")
# The useful part of -ffast-math. The rest would change how the whole process treats denormals and NaN or, with
# -fno-signed-zeros, let 0 + a · b + c · d start with either product, differently for wide and for narrow vectors.
FLOATING_POINT = ("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
PATIENCE = 300  # seconds; compiling takes about twenty


class CannotBuild(Exception):
    """The kernels cannot be compiled; the message is one line that says why."""


def built_library() -> Path:
    """Return the path of the compiled library, compiling it unless the cache has an intact one.

    Environment variables: CXX, the compiler; CDNV2_KERNEL_FLAGS, which replaces the flags that choose the processor
    (e.g. "-march=x86-64-v3"); XDG_CACHE_HOME, the cache's parent directory instead of ~/.cache.

    Raises:
      CannotBuild: no compiler, a failed compilation, or a cache that other users can write to.
    """
    try:
        compiler, flags = find_compiler(), [*FLAGS, *FLOATING_POINT, *processor_flags()]
        directory = _own_directory()
        key = _key(compiler, flags)
        return _cached(directory, key) or _compile_once(directory, key, compiler, flags)
    except OSError as error:
        what = f"{error.filename or 'the cache'}: {error.strerror or error}"
        raise CannotBuild(f"{what} (XDG_CACHE_HOME can name another cache)") from error
    except (UserError, RuntimeError) as error:  # no home directory; no thread to compile with
        raise CannotBuild(one_line(error)) from error


def find_compiler() -> list[str]:
    """Return the C++ compiler's command: $CXX, or the first of COMPILERS that is installed."""
    given = _words("CXX", default="")
    commands = [given] if given else [[name] for name in COMPILERS]
    for command in commands:
        if shutil.which(command[0]):
            return command
    raise CannotBuild(f"no C++ compiler ({', '.join(command[0] for command in commands)}) is installed")


def processor_flags() -> list[str]:
    """Return the flags that select this machine's processor, or CDNV2_KERNEL_FLAGS."""
    native = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    return _words("CDNV2_KERNEL_FLAGS", default=native)


def _words(variable: str, default: str) -> list[str]:
    """Return an environment variable's words, as a shell would split them."""
    try:
        return shlex.split(os.environ.get(variable, default))
    except ValueError as error:
        raise CannotBuild(f"{variable} is not a command line ({error}): correct or unset it") from error


def _own_directory() -> Path:
    """Return the cache directory, created if needed. Only this user may write to it: its contents are executed."""
    directory = cache_directory() / "kernels"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(directory):
        raise CannotBuild(f"other users can write to {directory}: make it writable by its owner alone")
    return directory


def _is_ours(path: Path) -> bool:
    status = path.stat(follow_symlinks=False)
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _key(compiler: Sequence[str], flags: Sequence[str]) -> str:
    """Hash the sources, flags, compiler, processor and jaxlib version."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, timeout=PATIENCE).stdout
    parts = [*flags, jaxlib.version.__version__, _processor()]
    parts += [source.name + source.read_text(encoding="utf-8") for source in sorted(SOURCES.iterdir())]
    return hashlib.sha256("\0".join(parts).encode() + version).hexdigest()[:24]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    # The lines that -march=native depends on; others, such as clock frequencies, change from call to call.
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in info.read_text().splitlines() if line.startswith(names)}))


def _cached(directory: Path, key: str) -> Path | None:
    """Return the cached library whose contents match its name: loading a truncated file would crash the process."""
    for path in directory.glob(f"{key}-*.so"):
        if path.is_file() and _is_ours(path) and path.name == _name(key, path):
            return path
    return None


def _name(key: str, file: Path) -> str:
    return f"{key}-{hashlib.sha256(file.read_bytes()).hexdigest()[:24]}.so"


def _compile_once(directory: Path, key: str, compiler: Sequence[str], flags: Sequence[str]) -> Path:
    """Compile, or wait for another process that is compiling and use its library."""
    import fcntl  # not on Windows

    with (directory / "lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: compiling twice does no harm
            fcntl.flock(lock, fcntl.LOCK_EX)
        return _cached(directory, key) or _compile(directory, key, compiler, flags)


def _compile(directory: Path, key: str, compiler: Sequence[str], flags: Sequence[str]) -> Path:
    with contextlib.ExitStack() as stack:
        # Built in a temporary directory, then moved into place, so that no process ever sees half of it.
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
    """Run a command; raise CannotBuild with the compiler's first error if it fails."""
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
"""The library's custom calls, registered with XLA as "cdnv2.<name>"."""

_log = logging.getLogger("cdnv2_jax")
_lock = threading.Lock()


def available() -> bool:
    """Return whether the kernels can be used. The first call compiles them if needed, in about twenty seconds.

    If that fails, one warning is logged, and layers are computed without them.
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
