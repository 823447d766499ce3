"""The examples run as a user runs them: from another folder, ending well."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_own_network(tmp_path: Path) -> None:
    """A family from outside of the package goes through everything; the example itself compares what it should."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = [sys.executable, str(ROOT / "examples" / "own_network.py"), str(tmp_path / "out")]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "stage 3 of 3" in done.stdout
    accuracy = float(done.stdout.split("accuracy ")[1].split("%")[0])
    assert accuracy > 90
    for said in ("read back bit for bit", "as ONNX", "RetinaNet on it"):
        assert said in done.stdout
    assert {"network", "network.onnx", "network.html"} <= {path.name for path in (tmp_path / "out").iterdir()}
