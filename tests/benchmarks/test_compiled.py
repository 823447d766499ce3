"""What accelerators will run: HLO text is read right, and no gather or change of layout comes back unnoticed."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import pytest

from benchmarks import compiled, compiled_docs, compiled_program, compiled_targets
from benchmarks.compiled_hlo import Size, size, steps
from benchmarks.compiled_program import Job, figures_of
from benchmarks.compiled_targets import TARGETS
from cdnv2_jax.errors import UserError
from tests.commands.shell import REPOSITORY
from tests.tables import table

HLO = """
HloModule jit_step, is_scheduled=true

FileNames
1 "/home/me/train.py"
2 "/home/me/cdnv2_jax/layers/condensed.py"
3 "/usr/lib/flax/linear.py"

FunctionNames
1 "<module>"
2 "CondensedGroupConv.__call__"
3 "dot"

FileLocations
1 {file_name_id=1 function_name_id=1 line=1}
2 {file_name_id=2 function_name_id=2 line=9}
3 {file_name_id=3 function_name_id=3 line=5}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}

%fused (param_0: bf16[4,8]) -> bf16[4,8] {
  %param_0 = bf16[4,8]{1,0} parameter(0)
  %index = s32[4]{0} constant({1, 0, 3, 2})
  ROOT %taken = bf16[4,8]{1,0} gather(%param_0, %index), metadata={op_name="jit(step)/gather" stack_frame_id=2}
}

%moved (param_1: f32[16,4]) -> bf16[16,4] {
  %param_1 = f32[16,4]{1,0} parameter(0)
  %turned = f32[16,4]{0,1} copy(%param_1)
  ROOT %cast = bf16[16,4]{0,1} convert(%turned)
}

%body (state: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %state = (s32[], bf16[4,8]{1,0}) parameter(0)
  %features = bf16[4,8]{1,0} get-tuple-element(%state), index=1
  %count = s32[] get-tuple-element(%state), index=0
  %fusion.1 = bf16[4,8]{1,0} fusion(%features), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"70"}
  ROOT %next = (s32[], bf16[4,8]{1,0}) tuple(%count, %fusion.1)
}

%condition (state.1: (s32[], bf16[4,8])) -> pred[] {
  %state.1 = (s32[], bf16[4,8]{1,0}) parameter(0)
  %limit = s32[] constant(5)
  %at = s32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] compare(%at, %limit), direction=LT
}

ENTRY %main (x: f32[16,4], start: (s32[], bf16[4,8])) -> f32[16,4] {
  %x = f32[16,4]{1,0:T(8,128)} parameter(0), metadata={op_name="x['kernel']"}
  %start = (s32[], bf16[4,8]{1,0}) parameter(1)
  %fusion.2 = bf16[16,4]{0,1:T(8,128)(2,1)S(1)} fusion(%x), calls=%moved, backend_config={"estimated_cycles":"40"}
  %while.1 = (s32[], bf16[4,8]{1,0}) while(%start), condition=%condition, body=%body
  %while.2 = (s32[], bf16[4,8]{1,0}) while(%while.1), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"2"}}
  %ahead = (f32[16,4]{1,0:T(8,128)S(1)}, f32[16,4]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %here = f32[16,4]{1,0:T(8,128)S(1)} copy-done(%ahead)
  %dot = f32[16,4]{1,0:T(8,128)S(1)} custom-call(%here, /*index=1*/%fusion.2), custom_call_target="gemm", \
metadata={op_name="jit(step)/transpose(jvp(f))/dot_general" stack_frame_id=3}
  %flat = f32[64]{0:T(128)} reshape(%x)
  %sum = (f32[16,4]{1,0:T(8,128)}, f32[16,4]{1,0:T(8,128)}) all-reduce-start(%dot)
  ROOT %summed = f32[16,4]{1,0:T(8,128)} all-reduce-done(%sum)
}
"""
"""A product of a matrix that has been prefetched, its sum over devices, and two loops around a fused gather."""


def test_steps_of_a_program() -> None:
    found = steps(HLO)
    assert [(step.opcode, step.source, step.times, step.cycles) for step in found] == [
        ("fusion", "the compiler: fusion", 1, 40),
        ("copy-start", "the compiler: copy-start", 1, 0),
        ("custom-call", "CondensedGroupConv: dot_general (backward)", 1, 0),
        ("reshape", "the compiler: reshape", 1, 0),
        ("all-reduce-start", "the compiler: all-reduce-start", 1, 0),
        ("fusion", "CondensedGroupConv: gather", 2, 140),
        ("fusion", "CondensedGroupConv: gather", 5, 350),
    ]
    moved, ahead, product, flat, total, *_, gather = found
    # 16 × 4 values: 16 × 128 where tiles of HBM are padded, none in on-chip memory.
    assert moved.size == Size(16 * 4 * (4 + 2), 16 * 128 * 4)
    assert ahead.size == Size(2 * 16 * 4 * 4, 16 * 128 * 4)
    assert (product.size.hbm, flat.size.hbm) == (0, 16 * 128 * 4 + 128 * 4)
    assert (total.collective, total.sent, ahead.collective) == ("all-reduce", 16 * 4 * 4, None)
    assert gather.size == Size(5 * 2 * 4 * 8 * 2, 5 * 2 * 4 * 8 * 2)
    assert [step.only_moves for step in found] == [True, False, False, True, False, False, False]
    assert ("gather", "bf16[4,8]{1,0}") in gather.contents


class Executable(NamedTuple):
    """Stands for a compiled program."""

    memory: Any = SimpleNamespace(
        argument_size_in_bytes=8e9, output_size_in_bytes=2e9, temp_size_in_bytes=3e9, alias_size_in_bytes=1e9
    )

    def as_text(self) -> str:
        return HLO

    def memory_analysis(self) -> Any:
        return self.memory

    def cost_analysis(self) -> dict[str, float]:
        return {"flops": 1e6}


def test_figures() -> None:
    """A TPU's time is its estimated cycles, and apart from them bytes at the bandwidth; a GPU's is bytes."""
    program: Any = Executable()
    tpu = figures_of(program, TARGETS["v5e"], images=4)
    estimated, rest = 530 / 1.5e9, (16 * 128 * 4 + 128 * 4) / 819e9
    assert (tpu["steps"], tpu["cycles"]) == (5 + 2 + 5, 530)
    assert tpu["milliseconds"] == pytest.approx(1e3 * estimated)
    assert tpu["unestimated_milliseconds"] == pytest.approx(1e3 * rest)
    assert tpu["images_per_second"] == pytest.approx(4 / (estimated + rest))
    assert tpu["layout_share"] == pytest.approx((40 / 1.5e9 + rest) / (estimated + rest))
    assert tpu["sources"][0] == {
        "source": "CondensedGroupConv: gather",
        "share": pytest.approx(490 / 1.5e9 / (estimated + rest), abs=1e-4),
        "steps": 7,
    }
    assert tpu["memory"]["peak"] == 12e9 and tpu["memory"]["share"] == 0.75
    assert tpu["collectives"] == {"all-reduce": {"count": 1, "bytes": 16 * 4 * 4}}

    gpu = figures_of(program, TARGETS["h100"], images=4)
    assert "cycles" not in gpu and "unestimated_milliseconds" not in gpu
    assert gpu["milliseconds"] == pytest.approx(1e3 * sum(step.size.hbm for step in steps(HLO)) / 3.35e12)


SIZES = {
    "f32[2,3]{1,0}": Size(24, 24),
    "bf16[8,32,32,16]{2,1,0,3:T(8,128)(2,1)}": Size(8 * 32 * 32 * 16 * 2, 8 * 32 * 128 * 16 * 2),
    "bf16[8,32,32,16]{0,3,2,1:T(8,128)(2,1)S(1)}": Size(8 * 32 * 32 * 16 * 2, 0),
    "(pred[7]{0}, u8[0]{0}, f32[]{:T(128)}, token[])": Size(11, 11),
    "s32[130]{0:T(128)}": Size(520, 1024),
    "f8e4m3fn[4]{0}": Size(4, 4),
}


@table("shape", list(SIZES))
def test_size(shape: str) -> None:
    assert size(shape) == SIZES[shape]


MISTAKES = {
    "no such network": (["--model", "cdnv2_aa"], "did you mean 'cdnv2_a'"),
    "no such config": (["--work", "train", "--model", "imagnet:cdnv2_a"], "imagnet"),
    "no such variant": (["--work", "train", "--model", "cdnv2_d"], "not 'cdnv2_d'"),
    "a detector's config": (["--work", "train", "--model", "coco:retinanet,cdnv2_c"], "--work train_detector"),
    "no detector": (["--work", "detect", "--model", "cdnv2_a"], "such as retinanet,cdnv2_c"),
    "no such backbone": (["--work", "detect", "--model", "retinanet,cdnv2_x"], "cdnv2_x"),
    "a setting without a config": (["--config.batch_norm=global"], "--model imagenet:cdnv2_a"),
    "no such setting": (["--work", "train", "--config.batchnorm=global"], "batch_norm"),
    "no such flag": (["--batches", "8"], "unrecognized arguments: --batches"),
    "no such target": (["--target", "v4"], "v4"),
}


@table("flags, mention", MISTAKES)
def test_mistakes(flags: list[str], mention: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["--target", "cpu", *flags], mention, tmp_path, capsys)


DEVICES = {
    "v5e": (3, "1, 4, 8, 16, 32, 64, 128, 256 chips, not 3"),
    "h100": (12, "a multiple of 8, not 12"),
}


@table("target", list(DEVICES))
def test_devices_that_there_are_not(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count, mention = DEVICES[target]
    refused(["--target", target, "--devices", str(count)], mention, tmp_path, capsys)


@table("target, package", [("v5e", "libtpu"), ("h100", "jax-cuda13-plugin")])
def test_compilers_that_are_missing(
    target: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiled_targets, "COMPILERS", tmp_path / "none")
    expected = f"the compiler for {target} is not installed ({package}): run `make compilers`, or pip install"
    refused(["--target", target], expected, tmp_path, capsys)


def test_a_compiler_of_another_jax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libtpu-0.0.1.dist-info").mkdir()
    (tmp_path / "libtpu-0.0.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: libtpu\nVersion: 0.0.1\n"
    )
    monkeypatch.setattr(compiled_targets, "COMPILERS", tmp_path)
    with pytest.raises(UserError, match=r"libtpu 0\.0\.1 does not belong to JAX .*: run `make compilers` again"):
        compiled_targets.check_target("v5e", 1)


def refused(flags: list[str], mention: str, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = compiled.main([*flags, "--output", str(output)])
    except SystemExit as exit:
        status = exit.code
    printed = capsys.readouterr()
    assert (status, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert mention in printed.err
    assert not list(output.glob("*.json"))


def test_rows(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One replaces another of the same job; with --resume, and for two jobs of one program, it is compiled once."""
    made: list[Job] = []

    def in_this_process(job: Job, known: list[str], seconds: float) -> dict[str, Any]:
        row = compiled_program.compiled(job, known)
        made.extend([job] if "steps" in row else [])
        return row

    monkeypatch.setattr(compiled, "row_of", in_this_process)
    monkeypatch.setenv("CDNV2_LOWERINGS", "condensed_block=layers")
    flags = ["--target", "cpu", "--model", tiny, "--batch", "2", "--output", str(tmp_path)]
    assert compiled.main(flags) == 0
    (row,) = read_rows(tmp_path)
    assert (row["model"], row["batch"], row["devices"], row["dtype"]) == (tiny, 2, 1, "bfloat16")
    assert row["flags"][-1] == "CDNV2_LOWERINGS=condensed_block=layers"
    assert row["memory"]["arguments"] > 2 * 32 * 32 * 3 * 4 and row["memory"]["outputs"] == 2 * 7 * 2
    assert row["steps"] > 10 and row["bytes"] > 0 and row["collectives"] == {}
    assert "milliseconds" not in row
    assert f"{tiny} condensed, cpu, 2 images" in capsys.readouterr().out

    assert compiled.main([*flags, "--resume"]) == 0
    assert (len(made), read_rows(tmp_path)) == (1, [row])
    compiled.write_rows(tmp_path / "compiled_cpu.json", [{**row, "program": "another"}])
    assert compiled.main([*flags, "--resume"]) == 0
    assert (len(made), len(read_rows(tmp_path))) == (2, 1)
    assert compiled.main([*flags, "--work", "condensed", "condensed", "--dtype", "float32"]) == 0
    assert (len(made), len(read_rows(tmp_path))) == (3, 2)


@table("dtype", ["float32", "bfloat16"])
def test_inference_has_the_precision_of_evaluation(tiny: str, dtype: str) -> None:
    with jax.default_matmul_precision("default"):  # as for users; tests are set to "highest"
        program, _ = compiled_program.lowered(Job("cpu", "masked", tiny, 2, 1, dtype, (), ()))
    assert ("HIGHEST" in program.as_text()) == (dtype == "float32")


def test_one_program_for_two_targets_is_compiled_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []
    figures = {
        "steps": 1,
        "bytes": 1,
        "memory": {"peak": 1},
        "collectives": {},
        "compile_seconds": {"wall": 1, "cpu": 1},
    }

    def same(job: Job, known: list[str], seconds: float) -> dict[str, Any]:
        asked.append((job.target, known))
        return {"program": "same"} | ({} if known else figures)

    monkeypatch.setattr(compiled, "row_of", same)
    monkeypatch.setattr(compiled, "check_target", lambda target, devices: None)
    monkeypatch.setattr(compiled, "versions", lambda target: {"jax": "1"})
    flags = ["--target", "v5e", "v6e", "--work", "condensed", "masked", "--output", str(tmp_path)]
    assert compiled.main(flags) == 0
    assert asked == [("v5e", []), ("v5e", ["same"]), ("v6e", []), ("v6e", ["same"])]


def test_tables_of_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = {"model": "n", "dtype": "bfloat16", "overrides": [], "flags": [], "versions": {"jax": "1"}, "date": "2026"}
    figures = {"milliseconds": 7.52, "layout_share": 0.031, "images_per_second": 9750.4, "memory": {"peak": 2.04e9}}
    sent = {"all-reduce": {"count": 3, "bytes": 13_500_000}}
    rows = [
        what
        | {"target": "v5e", "work": "masked", "batch": 8, "devices": 1, "unestimated_milliseconds": 0.4, **figures},
        what | {"target": "h100", "work": "masked", "batch": 8, "devices": 1, "failed": "out of memory"},
        what | {"target": "h100", "work": "train", "batch": 128, "devices": 64, "collectives": sent, **figures},
        what | {"target": "v6e", "work": "masked", "batch": 9, "devices": 1, **figures, "flags": ["XLA_FLAGS=--x"]},
        what | {"target": "v6e", "work": "masked", "batch": 9, "devices": 1, **figures, "dtype": "float32"},
        what | {"target": "h100", "work": "masked", "batch": 10, "devices": 1, **figures},
        what | {"target": "h100", "work": "detect", "batch": 10, "devices": 1, **figures},
    ]
    monkeypatch.setattr(compiled_docs, "DOCS", tmp_path / "page.md")
    compiled_docs.DOCS.write_text(f"before\n{compiled_docs.START}\nold\n{compiled_docs.END}\nafter\n")
    text = compiled_docs.in_docs(rows)
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text and "jax 1; 2026" in text
    assert "| n | 8 | masked | 7.52 + 0.4 | 3 % | failed | failed |\n" in text
    assert "| n | 10 | detect, masked |  |  | 7.52 | 3 % |\n" in text
    assert "| n | 64 | 128 | h100 | 7.52 | 9,750 | 2.0 GB | 13.5 MB in 3 all-reduce |\n" in text
    assert "| n | 9 |" not in text
    compiled_docs.DOCS.write_text("nothing")
    with pytest.raises(UserError, match="lacks the comments"):
        compiled_docs.in_docs([])


def test_a_compiler_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its row says so, and the others follow."""
    died = subprocess.CompletedProcess([], -11, "", "WARNING: one\nF0000 two\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: died)
    assert compiled.main(["--target", "cpu", "--batch", "1", "2", "--output", str(tmp_path)]) == 0
    assert [row["failed"] for row in read_rows(tmp_path)] == ["exit status -11: F0000 two"] * 2
    assert "not compiled: exit status -11" in capsys.readouterr().out


def read_rows(directory: Path) -> list[dict[str, Any]]:
    return json.loads((directory / "compiled_cpu.json").read_text())["rows"]


COMPILE = """
import json, sys
from benchmarks.compiled_program import Job, lowered
print(lowered(Job(**json.loads(sys.argv[1])))[0].compile().as_text())
"""
MAP = 128 * 16 * 16 * 8
"""Elements of a map of 128 images of 64² pixels in the second block, of few channels: kernels have fewer."""


@pytest.mark.slow  # a TPU's compiler takes a quarter of a minute, alone
@pytest.mark.parametrize(("target", "package"), [("v5e", "libtpu"), ("h100", "jax-cuda13-plugin")])
def test_no_map_is_gathered_or_turned(target: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a condensed network, by the device's own compiler: that made it up to five times as slow as a masked one."""
    if not compiled_targets.installed(package):
        pytest.skip(f"needs {package}: make compilers")
    monkeypatch.delenv("XLA_FLAGS")  # those of tests are for CPUs
    job = Job(target, "condensed", "imagenet:cdnv2_a,smoke", 128, 1, "bfloat16", (), ())
    command = [sys.executable, "-c", COMPILE, json.dumps(dataclasses.asdict(job))]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=compiled_targets.environment(target, 1), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = steps(done.stdout)
    assert len(found) > 50
    assert not [step for step in found if any(opcode == "gather" and is_map(shape) for opcode, shape in step.contents)]
    assert not [step for step in found if step.only_moves and is_map(step.contents[0][1])]


def is_map(shape: str) -> bool:
    """Whether an array has as many elements as a feature map of the first blocks."""
    return size(shape).logical >= 2 * MAP  # of two or four bytes each
