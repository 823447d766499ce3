"""A look into a few steps with JAX's profiler."""

import dataclasses
from pathlib import Path

import jax

PROFILE = "profile"


@dataclasses.dataclass
class Profile:
    """Traces the steps `first` … `last` − 1 into `workdir`/profile, for TensorBoard or Perfetto; nothing by default."""

    workdir: Path
    first: int = 0
    last: int = 0
    _on: bool = False

    def before_step(self, step: int) -> None:
        """Starts or ends the trace when `step` is the one for it."""
        if self._on and step >= self.last:
            self.end()
        if not self._on and self.first <= step < self.last:
            jax.profiler.start_trace(str(self.workdir / PROFILE))
            self._on = True

    def end(self) -> None:
        """Ends the trace if there is one."""
        if self._on:
            jax.profiler.stop_trace()
            self._on = False
