"""Scalars for TensorBoard, written at once: what cannot be written is an error here, not in a thread's traceback."""

import time
from pathlib import Path
from typing import Any

from tensorboardX.proto import event_pb2 as _event_pb2
from tensorboardX.proto import summary_pb2 as _summary_pb2

event_pb2: Any = _event_pb2  # protobuf makes its classes when it is imported, unseen by type checkers
summary_pb2: Any = _summary_pb2


class Scalars:
    """An event file of scalars under `directory`.

    Attributes:
      first_step: of what will be written; TensorBoard forgets what earlier files have from there on.
    """

    def __init__(self, directory: Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter

        directory.mkdir(parents=True, exist_ok=True)
        # Numbered, as TensorBoard reads files in the order of their names; these go on with the second, which two
        # starts of a run may share.
        number = len(list(directory.glob("*.tfevents.*")))
        self._writer = EventsWriter(str(directory / f"events.{number:04d}"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(event_pb2.Event(wall_time=time.time(), step=first_step, session_log=start))

    def write(self, step: int, values: dict[str, float]) -> None:
        """One event with all the values of a step."""
        scalars = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        summary = summary_pb2.Summary(value=scalars)
        self._writer.write_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
