"""What the loop asks of that which is trained: the seam between `training/` and the tasks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import optax
from flax import nnx
from rich.console import Console

from cdnv2_jax.data.batches import RowMaker
from cdnv2_jax.data.pipeline import BrokenImages
from cdnv2_jax.devices import Devices
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.training.state import TrainState
from cdnv2_jax.training.step import TrainStep


class Judgement(Protocol):
    """What an evaluation found.

    Attributes:
      figures: by name, for the records. headline: the same in a few words. score: by which networks are compared,
        the higher the better; score_name: what it is called.
    """

    @property
    def figures(self) -> Mapping[str, float]: ...
    @property
    def headline(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def score_name(self) -> str: ...


class HeldOutImages(Protocol):
    """What networks are judged on, every image once.

    Attributes:
      broken: images that cannot be read; they are left out, as many as the config allows.
    """

    broken: BrokenImages

    def evaluate(self, model: Any) -> Judgement: ...


class Task(Protocol):
    """An experiment made ready to run on some devices.

    Attributes:
      config, devices: what it was made from. held_out: what it is judged on.
      row: makes this process's rows of training batches. device_fields: those of a batch that the step takes.
      steps_per_epoch, total_steps: its length.
      schedule: step → learning rate. stages: condensation stages that the network passes.
      graph: the network's structure; with a `TrainState` it makes the network.
      per_replica: whether results depend on the number of devices, each having batch statistics of its own.
      title: what is trained, for the first line. results: names of the files that `finish` leaves.
    """

    @property
    def config(self) -> RunConfig: ...
    @property
    def devices(self) -> Devices: ...
    @property
    def held_out(self) -> HeldOutImages: ...
    @property
    def row(self) -> RowMaker: ...
    @property
    def device_fields(self) -> Sequence[str]: ...
    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def total_steps(self) -> int: ...
    @property
    def schedule(self) -> optax.Schedule: ...
    @property
    def stages(self) -> int: ...
    @property
    def graph(self) -> nnx.GraphDef: ...
    @property
    def per_replica(self) -> bool: ...
    @property
    def title(self) -> str: ...
    @property
    def results(self) -> Sequence[str]: ...

    def initial_state(self) -> TrainState:
        """A state to start from, on all devices; a new copy each time."""
        ...

    def train_step(self) -> TrainStep:
        """The compiled step; takes batches as `row` makes them, of which only the device's fields."""
        ...

    def save(self, path: Path, model: Any, metadata: Mapping[str, Any]) -> None:
        """Saves a network as a checkpoint that every command opens, in place of one that is there."""
        ...

    def finish(self, trained: Any, live: Any | None, workdir: Path, console: Console) -> None:
        """Judges the trained network, condenses it, and leaves the `results` in `workdir`."""
        ...
