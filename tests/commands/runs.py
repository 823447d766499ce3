"""What finished and interrupted runs leave in their work directories."""

import json
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader


def summary_of(workdir: Path) -> dict[str, Any]:
    """The figures in summary.json."""
    return json.loads((workdir / "summary.json").read_text(encoding="utf-8"))


def records_of(workdir: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, as they were written; of one kind or of all."""
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if kind in (None, record["kind"])]


def checkpoints_of(workdir: Path) -> set[str]:
    """The names of a run's checkpoints: steps, and whatever else lies there."""
    return {entry.name for entry in (workdir / "checkpoints").iterdir()}


def scalars_of(workdir: Path) -> dict[tuple[str, int], float]:
    """{(tag, step): value} of all events, as TensorBoard reads them; of several the last."""
    return {
        (value.tag, event.step): value.simple_value
        for file in sorted((workdir / "tensorboard").glob("*tfevents*"))
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
    }
