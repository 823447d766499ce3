"""One mesh over all devices of all hosts: batches are sharded along it, everything else is replicated."""

import dataclasses
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cdnv2_jax.errors import UserError, one_line

AXIS = "data"
SETTINGS = ("jax_default_matmul_precision", "jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable")
VARIABLES = ("LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "CDNV2_LOWERINGS", "NPROC")
HARMLESS_FLAGS = ("--xla_force_host_platform_device_count", "--xla_dump")
"""JAX's settings, variables and beginnings of XLA's flags: two that change numbers, and one that does not."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run, in one process or several.

    Attributes:
      mesh: a mesh over all of them, with the single axis `AXIS`.
    """

    mesh: Mesh

    @classmethod
    def all(cls) -> "Devices":
        """Return all devices that JAX knows of, on every host; UserError as for `start_devices`, or on a lonely host.

        A TPU knows the other hosts of its slice, but processes that have not joined cannot stop or save together.
        """
        start_devices()
        if jax.process_count() > 1 and not jax.distributed.is_initialized():
            raise UserError(
                f"this is one of {jax.process_count()} hosts of a TPU slice: start the command on all of them, with "
                f"--distributed"
            )
        return cls(jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,)))

    @classmethod
    def first_of_this_process(cls) -> "Devices":
        """Return the first device of this process; computations on it involve no other process."""
        devices = jax.local_devices()[:1]
        return cls(jax.make_mesh((1,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices))

    @property
    def count(self) -> int:
        return self.mesh.size

    @property
    def split(self) -> NamedSharding:
        """The sharding of batches: along the first axis of every array."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    @property
    def everywhere(self) -> NamedSharding:
        """The sharding of state: a whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def __str__(self) -> str:
        kind = self.mesh.devices.flat[0].device_kind
        hosts = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        return f"{self.count} {kind} device{'s' if self.count > 1 else ''}{hosts}"

    def conditions(self) -> dict[str, Any]:
        """Return what decides the last bits of a step, besides program, config and versions; {name: value} for JSON.

        A CPU divides sums among the cores of a process, and XLA compiles for its processor.
        """
        first = self.mesh.devices.flat[0]
        settings = {name: getattr(jax.config, name, None) for name in SETTINGS}
        variables = {name: os.environ.get(name, "") for name in VARIABLES}
        flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(HARMLESS_FLAGS)]
        machine = {"cores per process": cores(), "processor": _processor()} if first.platform == "cpu" else {}
        return {
            "devices": self.count,
            "processes": jax.process_count(),
            "device kind": first.device_kind,
            "back end": " ".join(first.client.platform_version.split()),  # version of CUDA, day of libtpu's build
            **machine,
            "XLA_FLAGS": " ".join(flags),
            **variables,
            **settings,
        }

    def wait_for_all(self, name: str) -> None:
        """Wait until every process has reached this point."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(name)

    def check_batch(self, batch_size: int, what: str) -> None:
        """Raise UserError unless `batch_size` divides evenly among the devices."""
        if batch_size % self.count:
            below = batch_size - batch_size % self.count
            near = f"{below} or {below + self.count}" if below else f"{self.count}"
            raise UserError(f"{what} {batch_size} cannot be split evenly over {self.count} devices: use {near}")

    def put_batch(self, rows: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Combine every process's rows of a batch into the global batch, sharded over all devices."""
        return {name: jax.make_array_from_process_local_data(self.split, array) for name, array in rows.items()}

    def replicate(self, tree: Any) -> Any:
        """Copy a tree whose arrays have the same values in every process to every device."""
        return jax.tree.map(self._replicate, tree)

    def _replicate(self, array: Any) -> jax.Array:
        if isinstance(array, jax.Array) and array.sharding == self.everywhere:
            return array
        local = np.asarray(array)
        # Copied, because the result may be donated and on a CPU could otherwise share memory with `array`.
        return jax.make_array_from_callback(local.shape, self.everywhere, lambda index: np.array(local[index]))


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def start_devices() -> None:
    """Let JAX start its devices, before anything else would fail because it cannot.

    Raises:
      UserError: there is no such platform here, or its plugin is broken.
    """
    try:
        jax.devices()
    except Exception as error:  # RuntimeError, for some platforms AssertionError without a message
        asked = os.environ.get("JAX_PLATFORMS")
        why = one_line(error, 120) if str(error) else "there are none"
        wanted = f"JAX_PLATFORMS={asked}" if asked else "its platform"
        raise UserError(
            f"JAX cannot start the devices of {wanted} ({why}): install what that platform needs, or "
            f"set JAX_PLATFORMS=cpu to compute on the CPU"
        ) from error


def fetch(tree: Any) -> Any:
    """Convert a tree of replicated arrays to NumPy arrays."""
    return jax.tree.map(lambda array: np.asarray(array.addressable_data(0)), tree)


def is_first_process() -> bool:
    """Return whether this is the process that writes files and prints."""
    return jax.process_index() == 0
