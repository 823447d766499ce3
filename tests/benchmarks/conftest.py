"""A model small enough to measure in a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import machine
from cdnv2_jax.models.registry import MODELS, ModelEntry
from tests.twin_models import SMALL_V2

TINY_SIZE = 32


@pytest.fixture(scope="module")
def tiny() -> Iterator[str]:
    """The name of a tiny CondenseNetV2 that the registry has for one module of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", ModelEntry(SMALL_V2, TINY_SIZE))
        yield "tiny"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Flags for a benchmark that takes no time to measure; results go to `tmp_path`."""
    for rate in ("measured_gemm_rate", "measured_copy_rate"):
        monkeypatch.setattr(machine, rate, lambda: 1e10)
    monkeypatch.setattr("benchmarks.timing.VISIT_MILLISECONDS", 0.0)
    return ["--output", str(tmp_path), "--rounds", "1"]
