"""Each benchmark's command, on a tiny model: it measures, prints and writes; mistakes are one line and status 2."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import accelerator, compile_time, detectors, exported, inference, lowerings, sweep, training
from benchmarks.machine import machine_kind
from benchmarks.options import check_models
from cdnv2_jax.errors import UserError
from tests.tables import table

Main = Callable[[Sequence[str] | None], int]
SCRIPTS: dict[str, Main] = {
    "inference": inference.main,
    "training": training.main,
    "sweep": sweep.main,
    "compile_time": compile_time.main,
    "lowerings": lowerings.main,
    "detectors": detectors.main,
    "accelerator": accelerator.main,
    "exported": exported.main,
}


def written(directory: Path, script: str) -> dict[str, Any]:
    return json.loads((directory / machine_kind() / f"{script}.json").read_text())


def test_inference(tiny: str, quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--models", tiny, "--batches", "1", "2", "--peers", "torch", "onnx_folded"]
    assert inference.main([*flags, *quick]) == 0
    record = written(tmp_path, "inference")
    assert {"machine", "rates", "entries"} < set(record)
    whose = {(e["form"], e["batch"]): set(e["ratios"]) for e in record["entries"]}
    condensed, masked = {"ours_masked", "torch", "onnx_folded"}, {"torch"}
    assert whose == {
        ("condensed", 1): condensed,
        ("condensed", 2): condensed,
        ("masked", 1): masked,
        ("masked", 2): masked,
    }
    assert not any(e["refused"] for e in record["entries"])
    assert "ONNX Runtime, index folded" in capsys.readouterr().out


def test_training(tiny: str, quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(["--work", f"{tiny}:4", "--pruned", "no", "--peers", "torch", *quick]) == 0
    (entry,) = written(tmp_path, "training")["entries"]
    assert entry["form"] == "nothing pruned"
    assert set(entry["ratios"]) == {"torch"}
    assert not entry["refused"]
    assert f"{tiny} nothing pruned" in capsys.readouterr().out


def test_sweep(tiny: str, quick: list[str], tmp_path: Path) -> None:
    flags = ["--model", tiny, "--batches", "1", "--sizes", "24", "32", "--size-batch", "2", "--peers", "torch"]
    assert sweep.main([*flags, *quick]) == 0
    points = [(e["over"], e["batch"], e["image_size"]) for e in written(tmp_path, "sweep")["entries"]]
    assert points == [("batch", 1, 32), ("image_size", 2, 24), ("image_size", 2, 32)]


def test_exported(tiny: str, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = tmp_path / "export.md"
    docs.write_text(f"before\n{exported.START}\nold\n{exported.END}\nafter\n")
    monkeypatch.setattr(exported, "DOCS", docs)
    assert exported.main(["--models", tiny, "--batches", "1", "2", "--docs", *quick]) == 0
    entries = written(tmp_path, "exported")["entries"]
    assert [(e["batch"], set(e["ratios"]), e["refused"]) for e in entries] == [
        (batch, {"onnx", "onnx_folded"}, {}) for batch in (1, 2)
    ]
    text = docs.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "\nold\n" not in text
    assert f"| {tiny} | 2 | " in text and "PyTorch's export, index folded ÷ ours" in text


def test_a_document_without_the_comments(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Known before anything is measured."""
    docs = tmp_path / "export.md"
    docs.write_text("nothing")
    monkeypatch.setattr(exported, "DOCS", docs)
    check_refused("exported", ["--models", tiny, "--docs", "--output", str(tmp_path)], "lacks the comments", capsys)


MISTAKES: dict[str, tuple[str, list[str], str]] = {
    "unknown model": ("inference", ["--models", "cdnv2_aa"], "did you mean 'cdnv2_a'"),
    "unknown peer": ("inference", ["--peers", "torhc"], "torhc"),
    "unknown form": ("inference", ["--forms", "dense"], "dense"),
    "no batch": ("inference", ["--batches", "0"], "'0' is not a positive integer"),
    "unknown model to train": ("training", ["--work", "cdnv2_aa:4"], "did you mean 'cdnv2_a'"),
    "work without a batch": ("training", ["--work", "cdnv2_a"], "cdnv2_a:16"),
    "unknown trainer": ("training", ["--peers", "onnx"], "onnx"),
    "unknown model to sweep": ("sweep", ["--model", "cdnv2_aa"], "did you mean 'cdnv2_a'"),
    "images too small": ("sweep", ["--sizes", "8"], "--sizes: a 8×8 image is too small"),
    "unknown model to compile": ("compile_time", ["--models", "cdnv2_aa"], "did you mean 'cdnv2_a'"),
    "unknown model's shapes": ("lowerings", ["--models", "cdnv2_aa"], "did you mean 'cdnv2_a'"),
    "unknown model on a GPU": ("accelerator", ["--models", "cdnv2_aa"], "did you mean 'cdnv2_a'"),
    "unknown model to export": ("exported", ["--models", "cdnv2_aa"], "did you mean 'cdnv2_a'"),
    "unknown side": ("accelerator", ["--sides", "onnx"], "onnx"),
    "unknown flag": ("sweep", ["--batch", "3"], "--batch"),
}


@table("script, flags, mention", MISTAKES)
def test_mistakes(
    script: str, flags: list[str], mention: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_refused(script, [*flags, "--output", str(tmp_path)], mention, capsys)


@table("script", list(SCRIPTS))
def test_output_that_cannot_be(script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Known before anything is measured."""
    (tmp_path / "file").touch()
    check_refused(script, ["--output", str(tmp_path / "file")], "cannot be written", capsys)


def check_refused(script: str, flags: list[str], mention: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = SCRIPTS[script](flags)
    except SystemExit as exit:
        status = exit.code
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert mention in printed.err
    assert printed.err.startswith(f"python -m benchmarks.{script}: ")


def test_networks_of_other_families_are_refused() -> None:
    check_models(["cdnv2_a", "condensenet_50"])
    with pytest.raises(UserError, match="benchmarks need a CondenseNet, which mobilenet_v2_x1_0 is not"):
        check_models(["cdnv2_a", "mobilenet_v2_x1_0"])


@pytest.mark.soak  # draws the 41 million weights of a detector of full size
def test_detectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Costs at full size; times of the same are for `make bench-results`."""
    flags = ["--detectors", "faster_rcnn", "--backbones", "cdnv2_a", "--costs-only", "--output", str(tmp_path)]
    assert detectors.main(flags) == 0
    (entry,) = written(tmp_path, "detectors")["entries"]
    assert round(entry["multiply_adds"]["rpn"] / 1e9, 1) == 53.1
    assert entry["published_map"] == 23.5 and "milliseconds" not in entry
    assert "| faster_rcnn | cdnv2_a | 46M | 0.9 |" in capsys.readouterr().out
