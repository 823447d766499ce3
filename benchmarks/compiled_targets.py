"""The accelerators that programs are compiled for without having them, and where their compilers are.

python -m benchmarks.compiled_targets        # what `pip install --no-deps` must install, for the installed JAX
"""

import dataclasses
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from cdnv2_jax.errors import UserError

Platform = Literal["tpu", "cuda", "cpu"]  # as in `lower(lowering_platforms=…)`

COMPILERS = Path(__file__).parents[1] / ".compilers"
"""Where `make compilers` installs them, apart from `.venv`: JAX would look for their devices whenever it starts."""

H100 = Path(__file__).with_name("h100.txtpb")
"""An H100 SXM, as XLA takes the description of a GPU that is not there (a GpuTargetConfig)."""

TPU_SLICES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
"""Chips → topology of the slices that there are of TPU v5e and v6e."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
      platform: JAX's name of its compiler.
      extra: the extra of the package jax that installs this compiler; None if jaxlib has it.
      memory: bytes of a device; 0 if not known.
      bandwidth: bytes per second of that memory; 0 if not known.
      flops: products and sums per second in bfloat16; 0 if not known.
      clock: cycles per second, to convert estimated cycles; 0 where the compiler estimates none.
    """

    platform: Platform
    extra: Literal["tpu", "cuda13-local"] | None
    memory: float = 0.0
    bandwidth: float = 0.0
    flops: float = 0.0
    clock: float = 0.0

    @property
    def traced_as(self) -> str:
        """The platform as `jax.default_backend` names it."""
        return {"cuda": "gpu"}.get(self.platform, self.platform)


# Memory, bandwidth and peak: cloud.google.com/tpu/docs/v5e and v6e, and NVIDIA's data sheet of the H100 SXM. Clock of a
# v5e: at which its four 128 × 128 matrix units reach the peak. Of a v6e none is published: 1.75 GHz is an assumption.
TARGETS: dict[str, Target] = {
    "v5e": Target("tpu", "tpu", memory=16e9, bandwidth=819e9, flops=197e12, clock=1.5e9),
    "v6e": Target("tpu", "tpu", memory=32e9, bandwidth=1638e9, flops=918e12, clock=1.75e9),
    "h100": Target("cuda", "cuda13-local", memory=80e9, bandwidth=3.35e12, flops=989e12),
    "cpu": Target("cpu", None),
}
"""By name. "cpu" stands for simulated devices, to count memory and collectives where no compiler is installed."""


def check_target(name: str, devices: int) -> None:
    """Raise UserError unless a target with this number of devices exists and its compiler is installed."""
    target = TARGETS[name]
    if target.platform == "tpu" and devices not in TPU_SLICES:
        raise UserError(f"--devices: {name} comes in slices of {', '.join(map(str, TPU_SLICES))} chips, not {devices}")
    if target.platform == "cuda" and devices > 8 and devices % 8:
        raise UserError(f"--devices: hosts have 8 GPUs, so more than 8 must be a multiple of 8, not {devices}")
    if target.extra is None:
        return
    for required in requirements(target.extra):
        found = installed(required.name)
        if found is None:
            raise UserError(
                f"the compiler for {name} is not installed ({required.name}): run `make compilers`, or "
                f"pip install '.[compilers]' in an environment of its own"
            )
        if not required.specifier.contains(found):
            raise UserError(
                f"{required.name} {found} does not belong to JAX {metadata.version('jax')}: run `make compilers` "
                f"again, or pip install '{required}'"
            )


def requirements(extra: str) -> Iterator[Requirement]:
    """Yield the packages with a compiler that an extra of the installed jax names, and those they load it from."""
    for text in metadata.requires("jax") or []:
        required = Requirement(text)
        if required.name == "jaxlib" or required.marker is None or not required.marker.evaluate({"extra": extra}):
            continue
        if required.name == "libtpu":
            yield required
        elif required.name.startswith("jax-cuda"):
            yield required
            # The plugin is a small part in Python of this package, of the same version.
            yield Requirement(f"{required.name.removesuffix('-plugin')}-pjrt{required.specifier}")


def installed(package: str) -> str | None:
    """Return a package's version, in this environment or in `COMPILERS`; None if it is in neither."""
    found = metadata.distributions(name=package, path=[*sys.path, str(COMPILERS)])
    return next((distribution.version for distribution in found), None)


def versions(name: str) -> dict[str, str | None]:
    """Return the versions that decide what a target's compiler makes."""
    extra = TARGETS[name].extra
    return {package: installed(package) for package in ("jax", "jaxlib", *(r.name for r in requirements(extra or "")))}


def environment(name: str, devices: int) -> dict[str, str]:
    """Return the environment for a process that compiles for a target.

    JAX starts on the CPU and never looks for an accelerator; what is compiled is not cached, so that it takes its time.
    """
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(COMPILERS)]))
    changed = {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "PYTHONPATH": path,
    }
    if TARGETS[name].platform == "cpu":
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        changed["XLA_FLAGS"] = flags.strip()
    return {**os.environ, **changed}


def devices_of(name: str, count: int) -> list[Any]:
    """Return devices of a target to compile for, in a process with its `environment`."""
    import jax
    from jax.experimental import topologies

    target = TARGETS[name]
    if target.platform == "cpu":
        return jax.devices("cpu")[:count]
    if target.platform == "tpu":
        # Hosts have four chips unless told otherwise.
        alone = {"chips_per_host_bounds": [1, 1, 1]} if count == 1 else {}
        slice_of_chips = f"{name}:{TPU_SLICES[count]}"
        return list(topologies.get_topology_desc(slice_of_chips, platform="tpu", **alone).devices)
    hosts, each = (1, count) if count <= 8 else (count // 8, 8)
    described = H100.read_text(encoding="utf-8")
    found = topologies.get_topology_desc(platform="cuda", target_config=described, topology=f"1x{hosts}x{each}")
    return list(found.devices)


def main() -> int:
    """Print the requirements of all targets for which there is a version, one a line."""
    extras = dict.fromkeys(target.extra for target in TARGETS.values() if target.extra)
    for extra in extras:
        print(*(f"{one.name}{one.specifier}" for one in requirements(extra)), sep="\n")
    print("nvidia-cuda-nvcc")  # the assembler, which XLA starts
    return 0


if __name__ == "__main__":
    sys.exit(main())
