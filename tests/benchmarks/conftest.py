"""Models small enough to measure in a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import machine
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.family import MODELS, ModelEntry
from tests.twin_models import SMALL_V2

IMAGE_SIZE = 32


@pytest.fixture(scope="module")
def small() -> Iterator[str]:
    """The name of a small CondenseNetV2 with all its parts, which the registry has for one module of tests."""
    yield from _registered("small", SMALL_V2)


@pytest.fixture(scope="module")
def tiny() -> Iterator[str]:
    """Likewise of one with a single dense layer, which is compiled sooner."""
    yield from _registered("tiny", SMALL_V2.override({"stages": (1,), "growth": (8,), "conv_groups": 4}))


def _registered(name: str, architecture: CondenseNetArchitecture) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, name, ModelEntry(architecture, IMAGE_SIZE))
        yield name


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Flags for a benchmark that takes no time to measure; results go to `tmp_path`."""
    for rate in ("measured_gemm_rate", "measured_copy_rate"):
        monkeypatch.setattr(machine, rate, lambda: 1e10)
    monkeypatch.setattr("benchmarks.timing.VISIT_MILLISECONDS", 0.0)
    return ["--output", str(tmp_path), "--rounds", "1"]
