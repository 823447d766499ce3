"""Scalars for TensorBoard, written at once: what cannot be written is an error here, not in a thread's traceback."""

import time
from pathlib import Path


class Scalars:
    """An event file of scalars under `directory`.

    Attributes:
      first_step: of what will be written; TensorBoard forgets what earlier files have from there on.
    """

    def __init__(self, directory: Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"))
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=first_step, session_log=start))

    def write(self, step: int, values: dict[str, float]) -> None:
        """One event with all the values of a step."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
