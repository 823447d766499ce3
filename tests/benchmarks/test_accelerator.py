"""The GPU's benchmark, tried out on the CPU with a tiny network, its processes' work done in this one."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import accelerator, accelerator_side, problems
from benchmarks.accelerator import with_shares
from benchmarks.machine import machine_kind
from benchmarks.processes import printed_by
from benchmarks.results import Entry
from tests.torch_twin import CondenseNetTwin

FLAGS = ["--work", "training", "condensed", "--sides", "ours", "torch"]
BATCHES = ["--training-batches", "2", "--inference-batches", "1"]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Calls the sides instead of starting them; the list fills with their arguments."""
    started: list[Sequence[str]] = []

    def call(module: str, arguments: Sequence[str], seconds: float, _: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        started.append(arguments)
        if list(arguments) == ["rates"]:
            yield {"gemm_multiply_adds_per_second": 1e11, "copied_bytes_per_second": 1e10}
            return
        side, work, name, *batches = arguments
        yield from accelerator_side.measure(side, work, name, [int(batch) for batch in batches])  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(accelerator, "printed_by", call)
    monkeypatch.setattr(accelerator_side, "ROUNDS", 1)
    monkeypatch.setattr("benchmarks.timing.VISIT_MILLISECONDS", 0.0)
    return started


def test_accelerator(
    tiny: str, in_this_process: list[Sequence[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--models", tiny, *FLAGS, *BATCHES, "--output", str(tmp_path)]
    assert accelerator.main(flags) == 0
    file = tmp_path / machine_kind() / "accelerator.json"
    entries = json.loads(file.read_text())["entries"]
    assert not [e for e in entries if "failed" in e]
    found = [(e["work"], e["side"], e["batch"]) for e in entries]
    assert found == [
        *(("training", "ours", 2), ("training", "torch", 2)),
        *(("condensed", "ours", 1), ("condensed", "torch", 1)),
    ]
    assert entries[0]["program_bytes"] > 0
    assert [set(e["differences"]) for e in entries] == 2 * [{"bfloat16"}, {"highest", "bfloat16"}]
    assert all(e["share_of_floor"] > 0 and e["images_per_second"] > 0 for e in entries)
    printed = capsys.readouterr().out
    assert "Images per second" in printed
    assert "not measured" not in printed

    # Another call finds what there is, and measures only what is missing.
    record = json.loads(file.read_text())
    record["entries"] = [e for e in entries if (e["work"], e["side"]) != ("condensed", "torch")]
    file.write_text(json.dumps(record))
    in_this_process.clear()
    assert accelerator.main([*flags, "--resume"]) == 0
    assert in_this_process == [["rates"], ["torch", "condensed", tiny, "1"]]
    assert len(json.loads(file.read_text())["entries"]) == len(entries)


def test_what_does_not_fit_is_told_and_larger_ones_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def full(side: str, work: str, name: str, batch: int) -> Entry:
        tried.append(batch)
        if batch == 8:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes.")
        return {"milliseconds": {}, "differences": {}}

    monkeypatch.setattr(accelerator_side, "_measured", full)
    entries = list(accelerator_side.measure("ours", "training", "cdnv2_a", [16, 4, 8]))
    assert entries[:2] == [
        {"batch": 4, "milliseconds": {}, "differences": {"bfloat16": {}}},
        {"batch": 8, "failed": "out of memory"},
    ]
    assert [e["batch"] for e in entries] == [4, 8, 16]
    assert "not tried" in entries[2]["failed"]
    assert tried == [4, 8]


@pytest.mark.parametrize("work", ["training", "condensed"])
def test_a_peer_with_a_wrong_layer_is_refused(work: Any, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, before anything of it is timed."""

    def with_wrong_layer(case: problems.Problem) -> CondenseNetTwin:
        twin = copy.deepcopy(case.twin)
        stem = next(twin.features["init_conv"].parameters())
        stem.data = stem.data.flip(0)
        return twin

    monkeypatch.setattr(problems.Problem, "twin_copy", with_wrong_layer)
    (entry,) = accelerator_side.measure("torch", work, tiny, [2])
    assert "milliseconds" not in entry
    assert "(highest) differ by" in entry["failed"]


def test_shares_of_the_memory_floor() -> None:
    measured = {"work": "condensed", "model": "cdnv2_a", "batch": 4, "milliseconds": {"median": 2.0}}
    entry = with_shares({**measured, "program_bytes": 4_000_000}, {"copied_bytes_per_second": 1e10})
    assert entry["share_of_program"] == pytest.approx(0.2)
    assert entry["share_of_floor"] == pytest.approx(entry["floor_bytes"] / 1e10 / 2e-3)


ENDLESS = """
import sys, time
print("hello")
print('{"a": ' + sys.argv[1] + "}", flush=True)
time.sleep(600)
"""


def test_processes_print_lines_until_their_time_is_up(tmp_path: Path) -> None:
    """Here a process that would never end; what is no JSON object is passed over."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    environment = {"PYTHONPATH": str(tmp_path)}
    assert next(printed_by("endless", ["3"], 60.0, environment)) == {"a": 3}
    assert list(printed_by("endless", ["3"], 0.0, environment)) == []
