"""A detector on many devices: proposals, samples and losses are those of the whole batch, however it is split."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands.detection_runs import config_of
from tests.commands.runs import records_of
from tests.commands.shell import REPOSITORY
from tests.distributed.runs import finished


def assert_same_losses(ours: list[dict[str, float]], theirs: list[dict[str, float]], rtol: float) -> None:
    for name in theirs[0]:
        if name.endswith("loss"):
            np.testing.assert_allclose([r[name] for r in ours], [r[name] for r in theirs], rtol=rtol, err_msg=name)


@pytest.mark.slow  # a process that compiles the training step of a small detector, twice
@pytest.mark.parametrize(("kind", "parts"), [pytest.param("retinanet", 2, marks=pytest.mark.soak), ("faster_rcnn", 4)])
def test_steps_on_eight_devices(kind: str, parts: int) -> None:
    """In float64, as training multiplies rounding errors."""
    environment = {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "JAX_ENABLE_X64": "1",
    }
    command = (sys.executable, "-m", "tests.distributed.detector_on_devices", kind)
    run = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    one, eight = json.loads(run.stdout)
    assert len(one) == 4 and len(one[0]) == parts + 1
    assert_same_losses(eight, one, 1e-10)


@pytest.mark.soak  # the same for whole runs of a network that is pruned, evaluated and condensed: two minutes
def test_runs_on_eight_devices(tmp_path: Path) -> None:
    directory = f"--config.data.directory={tmp_path / 'drawn'}"
    more = ("--config.model.dtype=float64", "--config.data.batch_size=8", "--config.epochs=3", directory)
    run = (*config_of("faster_rcnn"), *more)
    one, eight = (finished(tmp_path / f"on_{count}", devices=count, run=run) for count in (1, 8))
    ours, theirs = (records_of(workdir, "train") for workdir in (eight, one))
    assert len(theirs) >= 3
    assert_same_losses(ours, theirs, 1e-5)
    figures = [{k: v for k, v in records_of(w, "eval")[-1].items() if k.startswith("A")} for w in (eight, one)]
    assert figures[0] == pytest.approx(figures[1], abs=1e-3)
