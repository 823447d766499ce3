"""Plan a pod run on simulated devices: memory, collectives and lowering of the real training step.

    python -m benchmarks.pod_plan --config configs/imagenet.py:cdnv2_c --devices 64 --output benchmarks/results/pod.json

Traces the training step of a config for a mesh of --devices devices and lowers it for TPUs and GPUs, without running
it. With --compile it is also compiled for simulated CPU devices, which yields XLA's memory per device and the
collectives of the partitioned program. The lower bound is the state once per device, and one all-reduce of all
gradients per step.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PLATFORMS = ("tpu", "cuda")
JAX_NAMES = {"tpu": "tpu", "cuda": "gpu", "cpu": "cpu"}  # as `jax.default_backend` says
IN_HLO = re.compile(r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\(")
COLLECTIVES = ("all_reduce", "all_gather", "all_to_all", "reduce_scatter", "collective_permute")
BYTES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1}


def plan(spec: str, overrides: list[str], *, compile_too: bool) -> dict[str, Any]:
    """Analyse a config's training step on all devices of this process; see the module's docstring."""
    from cdnv2_jax.classification.config import ClassificationConfig
    from cdnv2_jax.classification.experiment import ClassificationExperiment
    from cdnv2_jax.commands.read_config import read_config
    from cdnv2_jax.devices import Devices
    from cdnv2_jax.layers.lowering import tracing_for

    # Only the number and shape of images matter. On accelerators the noise of random erasing is drawn on the device.
    generated = ["--config.data.source=synthetic", "--config.data.erase_on=device", "--config.data.workers=0"]
    config = read_config(spec, [*generated, *overrides])
    assert isinstance(config, ClassificationConfig), "only classifiers can be planned"
    devices = Devices.all()
    experiment = ClassificationExperiment(config, devices)
    experiment.prepare_training()
    state, batch = _on(devices.everywhere, experiment.state_shapes()), _on(devices.split, _batch(config.data))
    found: dict[str, Any] = {
        "config": spec,
        "devices": devices.count,
        "batch": config.data.batch_size,
        "batch_norm": config.batch_norm,
        "dtype": config.model.dtype,
        "parameters_bytes": _bytes(state.params),
        "state_bytes_per_device": _bytes(state),
        "batch_bytes_per_device": _bytes(batch) // devices.count,
    }
    for name in PLATFORMS:
        with tracing_for(JAX_NAMES[name]):
            step: Any = experiment.train_step()
            text = step.trace(state, batch).lower(lowering_platforms=(name,)).as_text()
        found[name] = {"lines": text.count("\n"), "partitions": _partitions(text), "collectives": _in_stablehlo(text)}
    if compile_too:
        found["cpu"] = _compiled(experiment.train_step(), state, batch)
    return found


def _batch(data: Any) -> dict[str, Any]:
    import jax
    import numpy as np

    shapes = {
        "image": ((data.batch_size, data.image_size, data.image_size, 3), np.uint8),
        "label": ((data.batch_size,), np.int32),
    }
    if data.erase_probability:
        shapes["erase"] = ((data.batch_size, 4), np.int32)
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}


def _on(sharding: Any, tree: Any) -> Any:
    import jax

    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _bytes(tree: Any) -> int:
    import jax

    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _partitions(text: str) -> int:
    found = re.search(r"mhlo.num_partitions = (\d+)", text)
    return int(found.group(1)) if found else 1


def _in_stablehlo(text: str) -> dict[str, int]:
    """Count collectives in the lowered program; those of a sharded jit are only inserted by compilation."""
    counts = {name: len(re.findall(rf"stablehlo\.{name}\b", text)) for name in COLLECTIVES}
    return {name: count for name, count in counts.items() if count}


def _compiled(step: Any, state: Any, batch: Any) -> dict[str, Any]:
    start = time.perf_counter()
    compiled = step.lower(state, batch).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    calls: dict[str, dict[str, int]] = {}
    for line in compiled.as_text().splitlines():
        found = re.search(
            r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\(", line
        )
        if found:
            entry = calls.setdefault(found.group(2), {"count": 0, "bytes": 0})
            entry["count"] += 1
            entry["bytes"] += _shape_bytes(found.group(1))
    return {
        "compile_seconds": round(seconds, 1),
        "collectives": calls,
        "argument_bytes_per_device": memory.argument_size_in_bytes,
        "temporary_bytes_per_device": memory.temp_size_in_bytes,
        "donated_bytes_per_device": memory.alias_size_in_bytes,
    }


def _shape_bytes(shape: str) -> int:
    """Return the bytes of an HLO shape such as "(f32[8,16]{1,0}, s32[])"."""
    total = 0
    for dtype, sizes in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape):
        count = 1
        for size in filter(None, sizes.split(",")):
            count *= int(size)
        total += count * BYTES.get(dtype, 0)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description="Plan a pod run on simulated devices.")
    parser.add_argument("--config", nargs="+", default=["configs/imagenet.py:cdnv2_a"])
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--compile", action="store_true", help="also compile for simulated CPU devices (minutes)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options, overrides = parser.parse_known_args()
    flag = f"--xla_force_host_platform_device_count={options.devices}"
    if flag not in os.environ.get("XLA_FLAGS", ""):  # must be set before JAX is initialised
        environment = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}", "JAX_PLATFORMS": "cpu"}
        return subprocess.call([sys.executable, "-m", "benchmarks.pod_plan", *sys.argv[1:]], env=environment)
    from benchmarks.machine import describe

    plans = [plan(spec, overrides, compile_too=options.compile) for spec in options.config]
    text = json.dumps({"machine": describe(), "plans": plans}, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
