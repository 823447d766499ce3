"""What finished and interrupted runs leave in their work directories."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]


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
    """{(tag, step): value} of all TensorBoard events, read without TensorBoard; of several the last."""
    return {
        (value.tag, event.step): value.simple_value
        for file in sorted((workdir / "tensorboard").glob("*.tfevents.*"))
        for event in _events(file.read_bytes())
        for value in event.summary.value
    }


def _events(data: bytes) -> Iterator[Any]:
    """Of a TFRecord file: length and its checksum (12 bytes), an event, its checksum (4 bytes), and so on."""
    start = 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        yield Event.FromString(data[start + 12 : start + 12 + length])
        start += 12 + length + 4
