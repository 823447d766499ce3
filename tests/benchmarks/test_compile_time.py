"""How compile times are taken apart; the real processes once, in a slow test."""

import json
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import compile_time
from benchmarks.compile_once import first_call, seconds_to_ready
from benchmarks.machine import machine_kind


def test_parts_of_a_first_call() -> None:
    function = jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))
    seconds = seconds_to_ready(lambda: function(jnp.ones((7, 7))))
    assert 0 < seconds["compiling"] < seconds["first_result"]
    assert 0 < seconds["lowering"] < seconds["first_result"]


@pytest.mark.parametrize("program", ["masked", "condensed"])
def test_predictions(program: str, tiny: str) -> None:
    assert first_call(program, tiny, 2)().shape == (2, 7)  # pyright: ignore[reportArgumentType]


def test_each_program_is_made_ready_twice_with_one_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    caches: list[str] = []

    def started(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        caches.append(env["JAX_COMPILATION_CACHE_DIR"])
        seconds = dict.fromkeys(("lowering", "compiling", "first_result"), float(len(caches)))
        return subprocess.CompletedProcess(command, 0, json.dumps(seconds))

    monkeypatch.setattr(subprocess, "run", started)
    flags = ["--models", "cdnv2_a", "--programs", "train", "masked", "--output", str(tmp_path)]
    assert compile_time.main(flags) == 0
    entries = json.loads((tmp_path / machine_kind() / "compile_time.json").read_text())["entries"]
    assert [(e["program"], e["seconds"]["cold"]["compiling"]) for e in entries] == [("train", 1.0), ("masked", 3.0)]
    assert caches[0] == caches[1] != caches[2] == caches[3]
    assert "cdnv2_a masked, batch 1" in capsys.readouterr().out


@pytest.mark.soak  # two fresh processes that import JAX and compile a network: half a minute
def test_a_cache_saves_compiling(tmp_path: Path) -> None:
    entry = compile_time.compile_entry("condensenet_50", "masked")
    assert entry["seconds"]["cached"]["compiling"] < entry["seconds"]["cold"]["compiling"] / 2
