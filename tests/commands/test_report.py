"""`main.py report` on directories that hold no run, or a damaged one."""

import json
from pathlib import Path

import pytest

from tests.commands.shell import Shell

TRAIN = {
    "kind": "train",
    "step": 1,
    "epoch": 0.5,
    "loss": 2.3,
    "accuracy": 0.1,
    "learning_rate": 0.1,
    "stage": 0,
    "sparsity": 0.0,
    "images_per_second": 10.0,
}


@pytest.mark.parametrize("workdir", ["missing", "empty", "file"])
def test_no_run(workdir: str, shell: Shell) -> None:
    Path("empty").mkdir()
    Path("file").write_text("mine")
    assert f"--workdir {workdir} holds no run" in shell.refuses("main.py", "report", "--workdir", workdir)


DAMAGED = {
    "no JSON": "hello\n",
    "a list": "[1, 2]\n",
    "a number": "3\n",
    "null": "null\n",
    "no kind": '{"step": 1}\n',
    "no step": '{"kind": "train"}\n',
    "no loss": '{"kind": "train", "step": 1}\n',
    "text for a step": json.dumps({**TRAIN, "step": "one"}) + "\n" + json.dumps(TRAIN) + "\n",
    "text for a loss": json.dumps({**TRAIN, "loss": {"a": 1}}) + "\n",
    "a stage without its sparsity": json.dumps(TRAIN) + '\n{"kind": "stage", "step": 1, "stage": 1}\n',
    "null for a sparsity": json.dumps(TRAIN) + '\n{"kind": "stage", "step": 1, "stage": 1, "sparsity": null}\n',
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_damaged_metrics(text: str, shell: Shell) -> None:
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_text(text)
    assert "run/metrics.jsonl" in shell.refuses("main.py", "report", "--workdir", "run")


def test_metrics_that_are_no_text(shell: Shell) -> None:
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_bytes(bytes(range(128, 256)))
    assert "run/metrics.jsonl" in shell.refuses("main.py", "report", "--workdir", "run")


@pytest.mark.parametrize("records", [0, 1])
def test_run_that_has_hardly_begun(records: int, shell: Shell) -> None:
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_text((json.dumps(TRAIN) + "\n") * records)
    shell.succeeds("main.py", "report", "--workdir", "run")
    assert Path("run/sparsity.png").stat().st_size > 1000


def test_line_cut_off_by_a_crash(shell: Shell) -> None:
    """The last line of a run that lost its power may be half a record: the others still count."""
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_text(json.dumps(TRAIN) + '\n{"kind": "train", "st')
    shell.succeeds("main.py", "report", "--workdir", "run")
    assert Path("run/learning_curves.png").stat().st_size > 1000
