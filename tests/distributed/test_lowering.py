"""The real ImageNet step for devices that are not there: it compiles for them, and moves nothing but sums."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compiled, compiled_targets

# Each row is a process that starts JAX, traces a whole network and compiles it.
pytestmark = pytest.mark.slow


def _row(output: Path, target: str, *flags: str) -> dict[str, Any]:
    work = ["--target", target, "--work", "train", "--model", "imagenet:cdnv2_a,smoke", "--output", str(output)]
    assert compiled.main([*work, *flags]) == 0
    (row,) = json.loads((output / f"compiled_{target}.json").read_text())["rows"]
    assert "failed" not in row, row["failed"]
    return row


def test_a_step_sends_gradients_and_statistics_and_nothing_else(tmp_path: Path) -> None:
    row = _row(tmp_path, "cpu", "--devices", "8", "--batch", "1")
    assert row["batch_bytes"] == 64 * 64 * 3 + 4 + 16
    _check_sums(row)


@pytest.mark.soak  # a TPU's compiler takes a minute or more for each
@pytest.mark.skipif(not compiled_targets.installed("libtpu"), reason="needs libtpu: make compilers")
@pytest.mark.parametrize("batch_norm", ["replica", "global"])
def test_64_chips(batch_norm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS")  # those of tests are for CPUs
    row = _row(tmp_path, "v5e", "--devices", "64", "--batch", "16", f"--config.batch_norm={batch_norm}")
    assert row["batch_bytes"] == 16 * (64 * 64 * 3 + 4 + 16)
    if batch_norm == "replica":
        _check_sums(row)
    else:
        assert set(row["collectives"]) == {"all-reduce"}
        assert row["collectives"]["all-reduce"]["count"] > 10


def _check_sums(row: dict[str, Any]) -> None:
    assert set(row["collectives"]) == {"all-reduce"}
    assert row["collectives"]["all-reduce"]["count"] <= 4
    assert row["parameter_bytes"] < row["collectives"]["all-reduce"]["bytes"] < 1.05 * row["parameter_bytes"]
    # Donation: the new state takes the place of the old one.
    assert row["memory"]["donated"] > 0.99 * row["state_bytes"]
