"""Rows of the lowering table that an accelerator's compiler gives."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compiled_lowerings import main, row_of, write_row
from benchmarks.compiled_targets import TARGETS, Target
from benchmarks.lowered_operations import convolutions
from cdnv2_jax.layers import lowering
from tests.twin_models import SMALL_V2


def test_a_row_replaces_the_directions_that_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = tmp_path / "lowerings.json"
    others: dict[str, Any] = {"machine": {"device": "this"}, "rows": []}
    table.write_text(json.dumps({"cpu": others}))
    monkeypatch.setattr(lowering, "TABLE", table)
    shape = {"batch": 1, "side": 7, "inputs": 64, "outputs": 16, "groups": 8}
    both = {"kind": "grouped_conv", "shape": shape, "forward": {"pairs": 1.0}, "gradient": {"pairs": 3.0}}
    other = {**both, "shape": {**shape, "batch": 8}}
    for row in (both, other, {"kind": "grouped_conv", "shape": shape, "forward": {"pairs": 2.0}}):
        write_row(row, "v5e")
    found = json.loads(table.read_text())
    assert found["cpu"] == others
    assert found["tpu"]["rows"] == [{**both, "forward": {"pairs": 2.0}}, other]
    assert found["tpu"]["machine"]["compiled, not timed"] == "estimated cycles"


def test_every_lowering_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a CPU here, whose bytes count as if its memory moved 1 GB/s."""
    monkeypatch.setitem(TARGETS, "cpu", Target("cpu", None, bandwidth=1e9))
    operation = next(one for one in convolutions(SMALL_V2, 32, 2, "float32") if one.kind == "condensed_pointwise")
    row = row_of(operation, "cpu", ["forward"])
    assert set(row["forward"]) == {"scattered", "gathered"} and "gradient" not in row
    assert min(row["forward"].values()) > 1e-6 * operation.arguments[0].nbytes  # at least its input is read


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("benchmarks.compiled_targets.installed", lambda package: None)
    assert main(["--target", "v5e"]) == 2
    assert "make compilers" in capsys.readouterr().err
