"""Running code in a process that cannot import this package."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FORBIDDING = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ImportError(f"{{name}} is not there")

sys.meta_path.insert(0, Forbidden())
"""

OURS = ("cdnv2_jax", "flax", "torch", "orbax", "safetensors")


def run_alone(code: str, directory: Path, *, without: Sequence[str] = OURS) -> None:
    """Runs `code` in `directory`, in isolated mode, where importing any of `without` fails; it must succeed."""
    program = FORBIDDING.format(names=set(without)) + code
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
