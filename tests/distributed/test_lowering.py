"""The real ImageNet step for a pod that is not there: it lowers for TPUs and GPUs, and moves nothing but sums."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands.shell import REPOSITORY

# Each plan is a process that starts JAX with many simulated devices and traces a whole network.
pytestmark = pytest.mark.slow


def _plan(output: Path, config: str, *arguments: str) -> dict[str, Any]:
    command = (sys.executable, "-m", "benchmarks.pod_plan", "--config", f"configs/imagenet.py:{config}", *arguments)
    run = subprocess.run([*command, "--output", str(output)], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(output.read_text())["plans"][0]


@pytest.mark.soak  # a network of full size is traced, half a minute each
@pytest.mark.parametrize("batch_norm", ["replica", "global"])
def test_the_step_lowers_for_64_accelerators(batch_norm: str, tmp_path: Path) -> None:
    plan = _plan(tmp_path / "plan.json", "cdnv2_a", "--devices", "64", f"--config.batch_norm={batch_norm}")
    assert plan["batch"] == 1024
    assert plan["batch_bytes_per_device"] == 1024 // 64 * (224 * 224 * 3 + 4 + 16)
    for platform in ("tpu", "cuda"):
        assert plan[platform]["partitions"] == 64
        # A step of one global batch leaves its sums to the compiler.
        assert set(plan[platform]["collectives"]) == ({"all_reduce"} if batch_norm == "replica" else set())


def test_a_step_sends_gradients_and_statistics_and_nothing_else(tmp_path: Path) -> None:
    plan = _plan(tmp_path / "plan.json", "cdnv2_a,smoke", "--devices", "8", "--compile")
    assert plan["tpu"]["partitions"] == plan["cuda"]["partitions"] == 8
    assert set(plan["cpu"]["collectives"]) == {"all-reduce"}
    sent = plan["cpu"]["collectives"]["all-reduce"]["bytes"]
    assert plan["parameters_bytes"] < sent < 1.05 * plan["parameters_bytes"]
    # Donation: the new state takes the place of the old one.
    assert plan["cpu"]["donated_bytes_per_device"] > 0.99 * plan["state_bytes_per_device"]
