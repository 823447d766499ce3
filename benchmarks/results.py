"""Results files, with machine, versions and date; one directory per kind of machine."""

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import cores, describe, machine_kind
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.files import replacing

Entry = dict[str, Any]

COMMITTED = Path(__file__).parent / "results"
OWN = Path("runs") / "bench"


def results_file(directory: Path, script: str) -> Path:
    """Return the results file of `script` on this machine; UserError, before measuring, if it cannot be written."""
    path = directory / machine_kind() / f"{script}.json"
    if path.is_dir():
        raise UserError(f"--output: {path} exists and is a directory: give another one")
    attempt = path.with_suffix(".try")
    with replacing(attempt) as file:
        file.write_text("")
    attempt.unlink()
    return path


def write_results(path: Path, script: str, rates: dict[str, float], entries: list[Entry]) -> None:
    """Write a results file, replacing an older one."""
    threads = {"torch": torch.get_num_threads(), "onnxruntime": cores()}
    record = {"benchmark": script, "machine": describe(threads), "rates": rates, "entries": entries}
    with replacing(path) as file:
        file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_results(path: Path) -> dict[str, Any]:
    """Read what `write_results` wrote; UserError when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error
