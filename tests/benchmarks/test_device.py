"""The script for a GPU machine without network, as far as a machine without a GPU can run it, and its results."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_tables
from benchmarks.results import write_results
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.layers import lowering

ROOT = Path(__file__).parents[2]


def device(*arguments: str, **environment: str) -> str:
    """What the script prints; it must succeed."""
    command = ["bash", str(ROOT / "benchmarks" / "device.sh"), *arguments]
    variables = {**os.environ, "PYTHON": sys.executable, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=variables).stdout


def test_its_commands_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    """Each benchmark complains of nothing but a flag that was added; the run's settings exist."""
    *benchmarks, run = (line.split()[1:] for line in device("commands").splitlines())
    assert [words[1] for words in benchmarks] == [
        *("benchmarks.parity", "benchmarks.accelerator", "benchmarks.accelerator"),
        *("benchmarks.lowerings", "benchmarks.parity"),
    ]
    for _, module, *flags in benchmarks:
        with pytest.raises(SystemExit):
            import_module(module).main([*flags, "--added"])
        assert capsys.readouterr().err.split(": ")[1:] == [
            "unrecognized arguments",
            f"--added (see python -m {module} --help)\n",
        ]
    assert run[:2] == ["main.py", "train"]
    config = read_config(f"{ROOT}/{run[3]}", [flag for flag in run if flag.startswith("--config.")])
    assert config.data.source == "image_folder"


@pytest.mark.soak  # a dozen processes that import JAX and PyTorch
def test_smallest_network(tmp_path: Path) -> None:
    printed = device("smoke", OUT=str(tmp_path))
    assert printed == (tmp_path / "log.txt").read_text()
    parts = [line for line in printed.splitlines() if line.startswith("== ") and "exit status" in line]
    assert parts and all(part.endswith("exit status 0") for part in parts), printed
    assert {path.stem for path in tmp_path.rglob("*.json")} == {"parity", "accelerator", "lowerings"}
    for file in tmp_path.rglob("*.json"):
        entries = json.loads(file.read_text())["entries"]
        assert entries and not [entry for entry in entries if "failed" in entry]
    assert (tmp_path / "run.tgz").is_file()


SHAPE = {"batch": 128, "side": 56.0, "inputs": 24, "outputs": 32, "groups": 8}
TRAINING = {"model": "cdnv2_a", "work": "training", "batch": 256}
MEASURED: dict[str, list[dict[str, Any]]] = {
    "parity": [
        {"model": "cdnv2_a", "work": "masked", "side": "ours", "precision": "highest", "differences": {"logits": 4e-6}},
        {"model": "cdnv2_a", "work": "masked", "side": "torch", "precision": "bfloat16", "failed": "out of memory"},
    ],
    "accelerator": [
        {**TRAINING, "side": "ours", "images_per_second": 8123.4, "share_of_floor": 0.5},
        {**TRAINING, "side": "torch", "failed": "gradients differ"},
    ],
    "lowerings": [
        {
            "kind": "grouped_pointwise",
            "shape": SHAPE,
            "forward": {"batched": {"median": 0.2}, "block_diagonal": {"median": 0.1234}},
            "refused": {},
        }
    ],
}

COMPILED = [
    {"kind": "grouped_pointwise", "shape": SHAPE, "forward": {"batched": 1.0}},
    {"kind": "grouped_pointwise", "shape": SHAPE | {"batch": 1}, "forward": {"batched": 2.0}},
    {"kind": "grouped_conv", "shape": SHAPE, "forward": {"grouped": 3.0}},
]

TABLES = """\
Measured on one NVIDIA H100 80GB HBM3 (JAX {jax}, PyTorch {torch}, driver 580.1, {date}):

| images per second, bfloat16 | batch | ours | PyTorch | of the memory floor |
| --- | --- | --- | --- | --- |
| cdnv2_a training | 256 | 8,123 |  | 0.50 |

- cdnv2_a training, batch 256, PyTorch: gradients differ

Differences from PyTorch in float64 on the CPU:

|  |  | precision | logits |
| --- | --- | --- | --- |
| cdnv2_a masked | ours | highest | 4e-06 |
| cdnv2_a masked | PyTorch | bfloat16 |  |

- cdnv2_a masked, bfloat16, PyTorch: out of memory
"""


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with copies of what is written, and results of an H100 beside them."""
    docs, table = tmp_path / "speed.md", tmp_path / "lowerings.json"
    docs.write_text(f"before\n{gpu_tables.START}\nold\n{gpu_tables.END}\nafter\n")
    table.write_text(json.dumps({"cpu": {"rows": []}, "gpu": {"machine": {"device": "h100"}, "rows": COMPILED}}))
    monkeypatch.setattr(gpu_tables, "DOCS", docs)
    monkeypatch.setattr(gpu_tables, "COMMITTED", tmp_path / "results")
    monkeypatch.setattr(lowering, "TABLE", table)
    for name, entries in MEASURED.items():
        file = tmp_path / "out" / "nvidia_h100" / f"{name}.json"
        write_results(file, name, {}, entries)
        record = json.loads(file.read_text())
        record["machine"] |= {"device": "NVIDIA H100 80GB HBM3", "driver": "580.1"}
        file.write_text(json.dumps(record))
    return tmp_path


def test_results_become_docs_and_lowerings(places: Path) -> None:
    assert gpu_tables.main([str(places / "out" / "nvidia_h100")]) == 0
    machine = json.loads((places / "results" / "nvidia_h100" / "parity.json").read_text())["machine"]
    expected = TABLES.format(**machine["versions"], date=machine["date"])
    assert (places / "speed.md").read_text() == f"before\n{gpu_tables.START}\n{expected}{gpu_tables.END}\nafter\n"
    table = json.loads((places / "lowerings.json").read_text())
    assert table["cpu"] == {"rows": []}
    assert table["gpu"]["machine"]["device"] == "h100"
    assert table["gpu"]["machine"]["timed"]["device"] == "NVIDIA H100 80GB HBM3"
    row, *others = table["gpu"]["rows"]
    assert row["timed"] and row["forward"] == {"batched": 0.2, "block_diagonal": 0.123}
    assert others == COMPILED[1:]


def test_other_folders_are_refused(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing is written."""
    folder = places / "out" / "nvidia_h100"
    record = json.loads((folder / "parity.json").read_text())
    (folder / "parity.json").write_text(json.dumps(record | {"entries": [{}]}))
    mentions = {folder: "other results", places / "out": "has none of parity.json"}
    for directory, mention in mentions.items():
        assert gpu_tables.main([str(directory)]) == 2
        assert mention in capsys.readouterr().err
    (folder / "parity.json").write_text(json.dumps(record | {"machine": record["machine"] | {"driver": None}}))
    assert gpu_tables.main([str(folder)]) == 2
    assert capsys.readouterr().err.endswith(f": {folder}/parity.json was not measured on an NVIDIA GPU\n")
    assert "\nold\n" in (places / "speed.md").read_text()
    assert not (places / "results").exists()
