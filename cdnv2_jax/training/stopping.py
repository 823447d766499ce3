"""Ending a run early and in order, when the machine is about to be taken away (SIGTERM)."""

import signal
from types import FrameType

import jax


class Stopped(Exception):
    """The run was asked to stop and has saved where it is; its message is for the user."""


class StopSignal:
    """Notices SIGTERM, so that the loop can save and end between two steps. Use as a context manager.

    Several processes must end at the same step: there JAX's preemption service tells all of them when one is asked to.
    """

    def __enter__(self) -> "StopSignal":
        self._asked = False
        self._one_process = jax.process_count() == 1
        if self._one_process:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *exception) -> None:
        if self._one_process:
            signal.signal(signal.SIGTERM, self._before)

    def due(self, step: int) -> bool:
        """Whether to stop before `step`; every process must ask before every step."""
        if self._one_process:
            return self._asked
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
