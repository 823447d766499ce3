"""Every way to compute an operation is timed, and only beside ways that give the same; medians become the table."""

import json
from pathlib import Path
from typing import Any

import jax
import pytest

from benchmarks.lowered_operations import Operation, convolutions
from benchmarks.lowerings import main, measured, table_row, write_table
from benchmarks.machine import machine_kind
from cdnv2_jax.layers import lowering
from cdnv2_jax.layers.convolutions import possible_lowerings
from cdnv2_jax.layers.lowering import Shape
from cdnv2_jax.networks.family import MODELS
from tests.twin_models import SMALL_V2


def smallest(kind: str, dtype: str = "float32") -> Operation:
    """That operation of the last block of a small network."""
    architecture = SMALL_V2.override({"conv_groups": 4})
    return [operation for operation in convolutions(architecture, 32, 2, dtype) if operation.kind == kind][-1]


def test_shapes_of_a_network() -> None:
    """The last layer of cdnv2_a's last block reads 736 channels, 92 of them in each of 8 groups."""
    gathered, pointwise, three = list(convolutions(MODELS["cdnv2_a"].architecture, 224, 1, "float32"))[-3:]
    assert pointwise.shape == gathered.shape == Shape(batch=1, side=7, inputs=736, outputs=256, groups=8)
    assert three.shape == Shape(batch=1, side=7, inputs=256, outputs=64, groups=8)
    assert list(three.ways) == list(possible_lowerings(8))


@pytest.mark.parametrize("kind", ["grouped_conv", "grouped_pointwise", "condensed_pointwise"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_ways(kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.timing.VISIT_MILLISECONDS", 0.0)
    operation = smallest(kind, dtype)
    entry = measured(operation, dtype, rounds=1, seconds=1.0)
    assert not entry["refused"]
    assert set(entry["forward"]) == set(entry["gradient"]) == set(operation.ways)


def test_a_way_that_fails_is_refused() -> None:
    operation = smallest("grouped_conv")._replace(ways=["grouped", "by magic"], directions=["forward"])
    entry = measured(operation, "float32", rounds=1, seconds=1.0)
    assert list(entry["forward"]) == ["grouped"]
    assert list(entry["refused"]) == ["by magic"]


def test_whole_networks(tiny: str, quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By kernels and by layers, where there is a compiler for kernels."""
    assert main(["--models", tiny, "--batch", "2", *quick]) == 0
    entries = json.loads((tmp_path / machine_kind() / "lowerings.json").read_text())["entries"]
    networks = ["condensed_block", "masked_block", "training_block"]
    assert [e["kind"] for e in entries] == ["grouped_pointwise", "condensed_pointwise", "grouped_conv", *networks]
    condensed, masked, training = entries[-3:]
    assert set(condensed["forward"]) == set(masked["forward"]) == set(training["gradient"]) == {"layers", "kernel"}
    assert not any(e["refused"] for e in entries)
    assert "training_block" in capsys.readouterr().out


def test_written_table_is_what_layers_choose_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This back end's rows are replaced, others' stay."""
    others: dict[str, Any] = {"machine": {}, "rows": []}
    table = tmp_path / "lowerings.json"
    table.write_text(json.dumps({"elsewhere": others, jax.default_backend(): {"rows": ["old"]}}))
    monkeypatch.setattr(lowering, "TABLE", table)
    shape = Shape(2, 7, 64, 16, 8)
    medians = {"grouped": {"median": 3.14159}, "pairs": {"median": 1.0}}
    entry = {"kind": "grouped_conv", "shape": shape.__dict__, "forward": medians, "refused": {}}
    write_table([table_row(entry)], jax.default_backend(), {})
    assert json.loads(table.read_text())["elsewhere"] == others
    assert table_row(entry)["forward"] == {"grouped": 3.14, "pairs": 1.0}
    lowering._rows.cache_clear()
    try:
        assert lowering.choose("grouped_conv", shape) == "pairs"
    finally:
        lowering._rows.cache_clear()
