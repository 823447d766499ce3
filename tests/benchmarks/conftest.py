"""A model small enough to measure in a test."""

from pathlib import Path

import pytest

from benchmarks import machine
from cdnv2_jax.models.registry import MODELS, ModelEntry
from tests.twin_models import SMALL_V2

TINY = "tiny"
TINY_SIZE = 32


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a tiny CondenseNetV2, in the registry for one test."""
    monkeypatch.setitem(MODELS, TINY, ModelEntry(SMALL_V2, TINY_SIZE))
    return TINY


@pytest.fixture
def quick(tiny: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Flags for a benchmark of the tiny model that takes no time to measure; results go to `tmp_path`."""
    for rate in ("measured_gemm_rate", "measured_copy_rate"):
        monkeypatch.setattr(machine, rate, lambda *_: 1e10)
    monkeypatch.setattr("benchmarks.timing.VISIT_MILLISECONDS", 0.0)
    return ["--output", str(tmp_path), "--rounds", "1"]
