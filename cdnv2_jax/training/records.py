"""Records of a run: JSON lines, TensorBoard events, a progress bar, throughput and a profile."""

import contextlib
import dataclasses
import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboard.compat.proto import event_pb2 as _event_pb2
from tensorboard.compat.proto import summary_pb2 as _summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from cdnv2_jax.bounded_reading import parse_object, read_bytes
from cdnv2_jax.devices import is_first_process
from cdnv2_jax.errors import UserError, one_line, shorten
from cdnv2_jax.paths import is_remote
from cdnv2_jax.terminal import say
from cdnv2_jax.training.workdir import EVENTS, METRICS_FILE, PROFILE

event_pb2: Any = _event_pb2  # protobuf creates its classes on import, where type checkers cannot see them
summary_pb2: Any = _summary_pb2

MOST_BYTES = 1 << 30  # of metrics.jsonl, two million records
SECONDS_UNPUBLISHED = 60  # of records in a bucket, which are written again with all before them


class RunLog:
    """Log of a run: appends to `metrics.jsonl` and TensorBoard events, prints a line per stage and evaluation and, in a
    terminal, shows a progress bar. Of several processes, only the first writes and prints. In a bucket, both files are
    written again every minute and by `publish`.

    A record's "kind" is one of:
      train: step, epoch, loss and the step's other metrics, learning_rate, stage, sparsity, images_per_second,
        input_wait and, where known, device_memory_gib.
      stage: step, stage, stages, sparsity, cut_connections and cut_weight (see `training/pruning.py`).
      eval: step, epoch, the evaluation's metrics and their weights ("EMA" or "live"); with "EMA", the metrics of the
        live weights, too, as "live_loss" etc.
      broken_image: step, name.
    """

    def __init__(self, workdir: Path, total_steps: int, first_step: int, console: Console):
        self._file = self._events = self._mirror = None
        if is_first_process():
            place = workdir
            if is_remote(workdir):
                self._mirror = workdir.mirrored(METRICS_FILE)
                place = self._mirror.local
            # Unbuffered: a record that the disk has no room for must not be written later, after others.
            self._file = (place / METRICS_FILE).open("a+b", buffering=0)
            drop_incomplete_record(self._file)
            # Numbered, because TensorBoard reads files in the order of their names, which otherwise start with a time
            # in seconds that two starts of a run may share.
            number = len(list((workdir / EVENTS).glob("*tfevents*")))
            self._events = Scalars(place / EVENTS / f"events.{number:04d}.tfevents", first_step + 1)
        self.publish()
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total_steps, completed=first_step)

    def __enter__(self) -> "RunLog":
        self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()
        if self._file is not None and self._events is not None:
            self._file.close()
            self._events.close()
        if self._mirror is not None:
            self._mirror.close()

    def publish(self) -> None:
        """Have all records in the bucket, if the run writes to one; a record on a disk is there already."""
        self._published = time.monotonic()
        if self._mirror is not None:
            self._mirror.upload()

    def train(self, **record: Any) -> None:
        """Write a training record and advance the progress bar."""
        self._write("train", record)
        accuracy = f"accuracy {record['accuracy']:.1%}  " if "accuracy" in record else ""
        shown = (
            f"epoch {record['epoch']:.1f}  loss {record['loss']:.3f}  {accuracy}"
            f"stage {record['stage']}  sparsity {record['sparsity']:.0%}  "
            f"{record['images_per_second']:,.0f} images/s (input {record['input_wait']:.0%})"
        )
        if "device_memory_gib" in record:
            shown += f"  {record['device_memory_gib']:.1f} GiB"
        self._bar.update(self._task, completed=record["step"], description=shown)

    def stage(self, **record: Any) -> None:
        """Write and print that a condensation stage has been passed."""
        self._write("stage", record)
        self._console.print(
            f"step {record['step']}: stage {record['stage']} of {record['stages']} passed, "
            f"{record['sparsity']:.1%} of the learned 1×1 weights removed"
        )

    def evaluation(self, headline: str, **record: Any) -> None:
        """Write and print an evaluation on the held-out images; `headline` is its summary for people."""
        self._write("eval", record)
        self.publish()
        self._console.print(f"epoch {record['epoch']:g}: held-out {headline}")

    def broken_image(self, *, step: int, name: str) -> None:
        """Write and print that an image is unreadable: training replaces it by another one, evaluation skips it."""
        self._write("broken_image", {"step": step, "name": name})
        self._console.print(f"{name} cannot be read: it is skipped")

    def _write(self, kind: str, record: dict[str, Any]) -> None:
        if self._file is None or self._events is None:
            return
        if not os.fstat(self._file.fileno()).st_nlink:  # its directory, too; writing on would succeed and be lost
            raise FileNotFoundError(errno.ENOENT, "removed while the run was writing to it", METRICS_FILE)
        line = (json.dumps({"kind": kind, **record}) + "\n").encode()
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), METRICS_FILE)
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float) and name != "step"}
        self._events.write(record["step"], {f"{kind}/{name}": value for name, value in numbers.items()})
        if time.monotonic() > self._published + SECONDS_UNPUBLISHED:
            self.publish()


def drop_incomplete_record(file: BinaryIO) -> None:
    """Remove an incomplete last line, which a killed run or a full disk may leave."""
    file.seek(0)
    text = file.read()
    if not text.endswith(b"\n"):
        file.truncate(text.rfind(b"\n") + 1)


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Read all records of a run, ordered by step; a record repeated after a resume replaces the earlier one.

    Damaged lines are skipped, and named on standard error.

    Raises:
      UserError: the file cannot be read, or all of its lines are damaged.
    """
    latest: dict[tuple[str, int, str], dict[str, Any]] = {}
    damaged = []
    file = workdir / METRICS_FILE
    try:
        *lines, _ = read_bytes(file, MOST_BYTES).split(b"\n")  # the last is empty, or the run was killed
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {one_line(error)}") from error
    for number, line in enumerate(lines, 1):
        record = _record(line)
        if record is None:
            damaged.append(str(number))
        else:
            latest[record["kind"], record["step"], str(record.get("name", ""))] = record
    if damaged and not latest:
        raise UserError(f"{file} is damaged: none of its lines is a record of a run")
    if damaged:
        say(f"{file}: damaged lines are skipped: {shorten(damaged)}", file=sys.stderr)
    return sorted(latest.values(), key=lambda record: record["step"])


REQUIRED = {
    "train": {"step", "loss", "sparsity"},
    "stage": {"step", "stage", "stages", "sparsity"},
    "eval": {"step", "epoch"},
    "broken_image": {"step"},
}
"""What a record of a kind cannot be shown without."""


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, or None if it is damaged."""
    try:
        record = parse_object(line)
    except ValueError:
        return None
    values = {name: value for name, value in record.items() if name not in ("kind", "name", "weights")}
    whole = (
        REQUIRED.get(str(record.get("kind")), {"unknown"}) <= values.keys()
        and isinstance(record.get("step"), int)
        and all(isinstance(value, int | float | list) for value in values.values())
    )
    return record if whole else None


class Scalars:
    """A TensorBoard event file of scalars.

    Args:
      file: path of the file, whose directory is created.
      first_step: first step to be written; from it on, TensorBoard discards the events of earlier files.
    """

    def __init__(self, file: Path, first_step: int):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Of TensorBoard's own writers the one that never asks for TensorFlow, which takes seconds to import.
        self._writer = RecordWriter(file.open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one event with all values of a step."""
        scalars = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=summary_pb2.Summary(value=scalars))

    def _write(self, **event: Any) -> None:
        self._writer.write(event_pb2.Event(wall_time=time.time(), **event).SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Meter:
    """Throughput and fraction of time spent waiting for input since the last reading, and peak device memory."""

    def __init__(self, batch_size: int, first_step: int):
        self._batch_size = batch_size
        self._restart(first_step)

    def _restart(self, step: int) -> None:
        self._step, self._clock, self._waited, self._paused = step, time.perf_counter(), 0.0, 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of a `with` block as waiting for input."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of a `with` block from all metrics."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def read(self, step: int) -> dict[str, float]:
        """Return images_per_second, input_wait (in [0, 1]) and, if known, device_memory_gib (peak); start over."""
        seconds = max(time.perf_counter() - self._clock - self._paused, 1e-9)
        figures = {
            "images_per_second": (step - self._step) * self._batch_size / seconds,
            "input_wait": min(self._waited / seconds, 1.0),
        }
        memory = jax.local_devices()[0].memory_stats()  # None for CPUs
        if memory and "peak_bytes_in_use" in memory:
            figures["device_memory_gib"] = memory["peak_bytes_in_use"] / 2**30
        self._restart(step)
        return figures


@dataclasses.dataclass
class Profile:
    """Trace of steps `first` … `last` − 1 in `workdir`/profile, for TensorBoard or Perfetto; off by default."""

    workdir: Path
    first: int = 0
    last: int = 0
    _on: contextlib.ExitStack | None = None

    def before_step(self, step: int) -> None:
        """Start or end the trace if it is due at `step`."""
        if self._on and step >= self.last:
            self.end()
        if not self._on and self.first <= step < self.last:
            self._on, place = contextlib.ExitStack(), self.workdir / PROFILE
            if is_remote(place):  # the profiler writes to disks only
                place = self._on.enter_context(contextlib.closing(place.mirrored())).local
            self._on.enter_context(jax.profiler.trace(str(place)))

    def end(self) -> None:
        """End the trace if one is running."""
        if self._on:
            self._on.close()
            self._on = None
