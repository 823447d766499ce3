"""Every way to compute a grouped convolution is timed, and only beside ways that give the same."""

from typing import get_args

import pytest

from benchmarks.lowerings import DIRECTIONS, lowering_entries, operations
from cdnv2_jax.layers.grouped_conv import Lowering
from cdnv2_jax.models.registry import MODELS
from tests.twin_models import SMALL_V2

SMALLEST = list(operations(SMALL_V2, 32))[-2:]


def test_shapes_of_a_network() -> None:
    """The last layer of cdnv2_a's last block reads 736 channels, an eighth of them in each of 8 groups."""
    pointwise, three = list(operations(MODELS["cdnv2_a"].architecture, 224))[-2:]
    assert (pointwise.side, pointwise.inputs, pointwise.outputs, pointwise.kernel) == (7, 736, 256, (8, 92, 32))
    assert (three.side, three.inputs, three.outputs, three.kernel) == (7, 256, 64, (3, 3, 32, 64))


@pytest.mark.parametrize("operation", SMALLEST, ids=[operation.name for operation in SMALLEST])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lowerings(operation, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.timing.VISIT_MILLISECONDS", 0.0)
    entries = list(lowering_entries(operation, 2, dtype, rounds=1, seconds=1.0))
    assert [e["direction"] for e in entries] == list(DIRECTIONS)
    for e in entries:
        assert not e["refused"]
        assert set(e["milliseconds"]) == set(operation.ways)
        assert e["fastest"] in operation.ways


def test_a_way_that_there_is_not_is_refused() -> None:
    three = SMALLEST[-1]._replace(ways=("grouped", "by magic"), function=_no_magic)
    entry = next(iter(lowering_entries(three, 1, "float32", rounds=1, seconds=1.0)))
    assert list(entry["milliseconds"]) == ["grouped"]
    assert "magic" in entry["refused"]["by magic"]


def _no_magic(x, kernel, way: str | None):
    if way not in (*get_args(Lowering), None):
        raise ValueError(f"no way is called {way}")
    return SMALLEST[-1].function(x, kernel, way)
