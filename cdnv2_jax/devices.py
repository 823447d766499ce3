"""One mesh over all devices of all hosts: batches are sharded along it, everything else is replicated."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cdnv2_jax.errors import UserError

AXIS = "data"


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run, one or many, of one process or many.

    Attributes:
      mesh: one axis, `AXIS`, over all of them.
    """

    mesh: Mesh

    @classmethod
    def all(cls) -> "Devices":
        """All devices that JAX knows of, on every host."""
        return cls(jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,)))

    @classmethod
    def first_of_this_process(cls) -> "Devices":
        """One device of this process; what runs there needs no other process."""
        devices = jax.local_devices()[:1]
        return cls(jax.make_mesh((1,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices))

    @property
    def count(self) -> int:
        return self.mesh.size

    @property
    def split(self) -> NamedSharding:
        """The sharding of batches, along the first axis of every array."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    @property
    def everywhere(self) -> NamedSharding:
        """The sharding of state, a whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def __str__(self) -> str:
        kind = self.mesh.devices.flat[0].device_kind
        hosts = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        return f"{self.count} {kind} device{'s' if self.count > 1 else ''}{hosts}"

    def wait_for_all(self, name: str) -> None:
        """Waits until every process has reached this point."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(name)

    def check_batch(self, batch_size: int, what: str) -> None:
        """UserError unless every device gets equally many of `batch_size` samples."""
        if batch_size % self.count:
            below = batch_size - batch_size % self.count
            near = f"{below} or {below + self.count}" if below else f"{self.count}"
            raise UserError(f"{what} {batch_size} cannot be split evenly over {self.count} devices: use {near}")

    def put_batch(self, rows: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's rows of a batch → the global batch, sharded over all devices."""
        return {name: jax.make_array_from_process_local_data(self.split, array) for name, array in rows.items()}

    def replicate(self, tree: Any) -> Any:
        """A tree whose arrays have the same values on every process → copies on every device."""
        return jax.tree.map(self._replicate, tree)

    def _replicate(self, array: Any) -> jax.Array:
        if isinstance(array, jax.Array) and array.sharding == self.everywhere:
            return array
        local = np.asarray(array)
        # Copies: the result may be donated, and on a CPU it could share its memory with `array`.
        return jax.make_array_from_callback(local.shape, self.everywhere, lambda index: np.array(local[index]))


def fetch(tree: Any) -> Any:
    """A tree of replicated arrays → NumPy arrays."""
    return jax.tree.map(lambda array: np.asarray(array.addressable_data(0)), tree)


def is_first_process() -> bool:
    """Whether this is the process that writes files and prints."""
    return jax.process_index() == 0
