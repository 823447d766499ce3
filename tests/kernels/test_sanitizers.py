"""The kernels' tests again, under the compiler's checks of every access to memory and every number."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdnv2_jax.kernels import library

ROOT = Path(__file__).parents[2]
FLAGS = "-march=native -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined"
BUILD = "from cdnv2_jax.kernels import library; library.PATIENCE = 3000; library.built_library()"
TESTS = ("hostile_calls", "stem_and_head", "condensed_block", "training")


def library_file(name: str) -> str:
    """Where the compiler finds a library; the name alone if nowhere."""
    command = [*library.find_compiler(), f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.soak  # compiling takes minutes, and the tests twice as long as they usually do
@pytest.mark.usefixtures("kernels")
def test_nothing_to_report(tmp_path: Path) -> None:
    # The second, because AddressSanitizer looks for what throws exceptions before jaxlib brings it.
    runtimes = [library_file(name) for name in ("libasan.so", "libstdc++.so")]
    if not all(map(os.path.isabs, runtimes)):
        pytest.skip("the compiler has no libasan.so to load before Python")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CDNV2_KERNEL_FLAGS": FLAGS}
    subprocess.run([sys.executable, "-c", BUILD], cwd=ROOT, env=environment, check=True)
    # Python and jaxlib never free much of what they allocate.
    environment |= {
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    }
    files = [f"tests/kernels/test_{name}.py" for name in TESTS]
    run = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *files]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert "skipped" not in done.stdout
