"""Compile one program of the project for a target and print its figures as a line of JSON.

`benchmarks.compiled` starts this in fresh processes with the environment of `compiled_targets.environment`.
"""

import dataclasses
import hashlib
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh

from benchmarks.compiled_hlo import Step, steps
from benchmarks.compiled_targets import TARGETS, Target, devices_of
from cdnv2_jax import condense, create_model, prune
from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.experiment import ClassificationExperiment, starting_network
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.devices import AXIS, Devices
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.layers.dense_kernels import with_dense_kernels
from cdnv2_jax.layers.lowering import VARIABLE, full_precision, tracing_for
from cdnv2_jax.networks.family import model_entry

Work = Literal["condensed", "masked", "train", "detect", "train_detector"]
WORKS: tuple[Work, ...] = get_args(Work)
DETECTORS = ("retinanet", "faster_rcnn")
CANVAS = (800, 1344)
"""Height and width of the images of detectors in pixels."""

MOST_SOURCES = 10
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", VARIABLE)
"""Variables of the environment that change what is compiled."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What to compile.

    Attributes:
      target: a name of `TARGETS`.
      work: inference of the condensed or masked, fully pruned network, the training step of a config, a condensed
        detector, or a detector's training step.
      model: a network's name, that of its ImageNet config when it is trained; or a config (`imagenet:cdnv2_a,smoke`);
        or a detector and its backbone (`retinanet,cdnv2_c`).
      batch: images per device.
      devices: number of devices.
      dtype: that of the computation.
      overrides: `--config.…`, for a config.
      flags: what `FLAGS` are set to.
    """

    target: str
    work: Work
    model: str
    batch: int
    devices: int
    dtype: str
    overrides: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def images(self) -> int:
        return self.batch * self.devices


class Traced(NamedTuple):
    """A function of the project, and what it is compiled for.

    Attributes:
      function: a jitted function.
      arguments: shapes, dtypes and shardings of its arguments.
      facts: what is known of the arguments.
    """

    function: Any
    arguments: tuple[Any, ...]
    facts: dict[str, Any]


def current_flags() -> tuple[str, ...]:
    """Return the `FLAGS` that are set, as NAME=VALUE."""
    return tuple(f"{name}={os.environ[name]}" for name in FLAGS if os.environ.get(name))


def check(job: Job) -> None:
    """Raise UserError unless there is such a model or config."""
    kind, _, backbone = job.model.partition(",")
    if job.work in ("detect", "train_detector"):
        if kind not in DETECTORS:
            raise UserError(f"--model {job.model}: give a detector and its backbone, such as retinanet,cdnv2_c")
        model_entry(backbone)
    elif job.work == "train" or names_config(job.model):
        config_of(job)
    else:
        model_entry(job.model)
        if job.overrides:
            raise UserError(f"{job.overrides[0]} belongs to a config: give --model imagenet:{job.model}")


def names_config(model: str) -> bool:
    """Return whether --model is a config, by name or path, rather than a network."""
    return ":" in model or "/" in model or "." in model


def config_of(job: Job) -> ClassificationConfig:
    """Read the config of a job, for generated images; UserError if there is none or it is of a detector."""
    spec = job.model if names_config(job.model) else f"imagenet:{job.model}"
    if not isinstance(read_config(spec, []), ClassificationConfig):
        raise UserError(f"--model {job.model} is a detector's: use --work train_detector --model retinanet,cdnv2_c")
    generated = {
        "data.source": "synthetic",  # only number and shape of images matter
        "data.synthetic_images": job.images,
        "data.batch_size": job.images,
        "data.erase_on": "device",  # as on accelerators
        "data.workers": 0,
        "model.dtype": job.dtype,
    }
    config = read_config(spec, [*(f"--config.{name}={value}" for name, value in generated.items()), *job.overrides])
    assert isinstance(config, ClassificationConfig)
    return config


def traced(job: Job, devices: Devices) -> Traced:
    """Make what a job compiles; its weights are random and stay on the CPU."""
    makers: dict[Work, Callable[[Job, Devices], Traced]] = {
        "condensed": inference,
        "masked": inference,
        "train": training,
        "detect": detection,
        "train_detector": detector_training,
    }
    return makers[job.work](job, devices)


def inference(job: Job, devices: Devices) -> Traced:
    """The forward pass of a classifier, as `compiled_forward` compiles it."""
    if names_config(job.model):
        config = config_of(job)
        network, size = starting_network(config, ()).network, config.data.image_size
    else:
        network = create_model(job.model, rngs=nnx.Rngs(0), dtype=jnp.dtype(job.dtype))
        size = model_entry(job.model).image_size
    network.eval()
    prune(network, network.condensation_stages)
    if job.work == "condensed":
        network = condense(network)
    with tracing_for(TARGETS[job.target].traced_as):
        graph, state = nnx.split(with_dense_kernels(network))
    images = jax.ShapeDtypeStruct((job.images, size, size, 3), jnp.float32)
    function = jax.jit(lambda state, images: evaluated(network, nnx.merge(graph, state), images))
    return Traced(function, (on(devices.everywhere, state), on(devices.split, images)), {"image_size": size})


def evaluated(module: nnx.Module, function: Callable[..., Any], *arguments: jax.Array) -> Any:
    """Call a function of a network or detector with the precision that evaluation has."""
    with full_precision(module):
        return function(*arguments)


def training(job: Job, devices: Devices) -> Traced:
    """The training step of a config's experiment."""
    config = config_of(job)
    experiment = ClassificationExperiment(config, devices)
    experiment.prepare_training()
    data = config.data
    batch = {
        "image": jax.ShapeDtypeStruct((data.batch_size, data.image_size, data.image_size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((data.batch_size,), jnp.int32),
    }
    if data.erase_probability:
        batch["erase"] = jax.ShapeDtypeStruct((data.batch_size, 4), jnp.int32)
    state = experiment.state_shapes()
    facts = {
        "image_size": data.image_size,
        "batch_norm": config.batch_norm,
        "parameter_bytes": bytes_of(state.params),
        "state_bytes": bytes_of(state),
        "batch_bytes": bytes_of(batch) // devices.count,
    }
    return Traced(experiment.train_step(), (on(devices.everywhere, state), on(devices.split, batch)), facts)


def detection(job: Job, devices: Devices) -> Traced:
    """A condensed detector on images that fill their canvases."""
    from benchmarks.detector_step import detector_of

    detector = detector_of(*job.model.split(","), condensed=True, dtype=job.dtype)
    detector.eval()
    detector.canvases_filled = True
    with tracing_for(TARGETS[job.target].traced_as):
        graph, state = nnx.split(with_dense_kernels(detector))
    batch = (
        jax.ShapeDtypeStruct((job.images, *CANVAS, 3), jnp.float32),
        jax.ShapeDtypeStruct((job.images, 2), jnp.int32),
    )
    function = jax.jit(lambda state, images, sizes: evaluated(detector, nnx.merge(graph, state).detect, images, sizes))
    return Traced(function, (on(devices.everywhere, state), *on(devices.split, batch)), {"canvas": CANVAS})


def detector_training(job: Job, devices: Devices) -> Traced:
    """A detector's training step, without its preprocessing."""
    from benchmarks.detector_step import example_batch, train_step_of

    state, step = train_step_of(*job.model.split(","), dtype=job.dtype, devices=devices)
    batch = jax.eval_shape(
        lambda one: {name: jnp.repeat(x, job.images, 0) for name, x in one.items()}, example_batch(1, CANVAS)
    )
    facts = {"canvas": CANVAS, "parameter_bytes": bytes_of(state.params), "state_bytes": bytes_of(state)}
    return Traced(step, (on(devices.everywhere, state), on(devices.split, batch)), facts)


def on(sharding: Any, tree: Any) -> Any:
    """Return shapes and dtypes of a tree of arrays, on devices."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def bytes_of(tree: Any) -> int:
    """Return the bytes of a tree of arrays."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def lowered(job: Job) -> tuple[jax.stages.Lowered, dict[str, Any]]:
    """Trace and lower a job's program for its devices; return it and what is known of its arguments."""
    target = TARGETS[job.target]
    mesh = Mesh(np.array(devices_of(job.target, job.devices)), (AXIS,), axis_types=(AxisType.Auto,))
    with tracing_for(target.traced_as):
        program = traced(job, Devices(mesh))
        trace = program.function.trace(*program.arguments)
        return trace.lower(lowering_platforms=(target.platform,)), program.facts


def compiled(job: Job, known: Sequence[str] = ()) -> dict[str, Any]:
    """Compile a job and return its figures; only {"program": hash} if that is among the `known` ones."""
    program, facts = lowered(job)
    digest = hashlib.sha256(program.as_text().encode()).hexdigest()[:16]
    if digest in known:
        return {"program": digest}
    wall, cpu = time.perf_counter(), cpu_seconds()
    try:
        executable = program.compile()
    except jax.errors.JaxRuntimeError as error:  # too large for the device, say
        return {"program": digest, **facts, "failed": one_line(error, 500)}
    seconds = {"wall": round(time.perf_counter() - wall, 1), "cpu": round(cpu_seconds() - cpu, 1)}
    figures = figures_of(executable, TARGETS[job.target], job.batch)
    return {"program": digest, **facts, "compile_seconds": seconds, **figures}


def cpu_seconds() -> float:
    """Return the processor time of this process and of those it started."""
    return sum(os.times()[:4])


def figures_of(executable: jax.stages.Compiled, target: Target, images: int) -> dict[str, Any]:
    """Return memory, steps, bytes, cycles, collectives and the most expensive sources of a program.

    Args:
      executable: the program for one of the devices.
      target: what it was compiled for.
      images: number of images of a device.
    """
    taken = steps(executable.as_text() or "")
    costs = [seconds_of(step, target) for step in taken]
    total = sum(costs)
    figures: dict[str, Any] = {
        "memory": memory_of(executable, target),
        "steps": sum(step.times for step in taken),
        "bytes": sum(step.size.logical for step in taken),
        "collectives": collectives_of(taken),
    }
    if target.clock:
        figures["hbm_bytes"] = sum(step.size.hbm for step in taken)
        figures["cycles"] = sum(step.cycles for step in taken)
        figures["milliseconds"] = 1e3 * figures["cycles"] / target.clock
        figures["unestimated_milliseconds"] = 1e3 * sum(
            c for step, c in zip(taken, costs, strict=True) if not step.cycles
        )
        figures["matrix_unit_share"] = flops_of(executable) / target.flops / total
    elif target.bandwidth:
        figures["milliseconds"] = 1e3 * total
    if target.bandwidth:
        figures["images_per_second"] = images / total
        figures["layout_share"] = sum(c for step, c in zip(taken, costs, strict=True) if step.only_moves) / total
        figures["sources"] = sources_of(taken, costs)
    return figures


def seconds_of(step: Step, target: Target) -> float:
    """Return what a step takes at least: its estimated cycles, else its bytes at the bandwidth of the memory.

    A step that runs beside others and has no estimate takes nothing.
    """
    if target.clock and (step.cycles or step.asynchronous):
        return step.cycles / target.clock
    return step.size.hbm / target.bandwidth if target.bandwidth else 0.0


def memory_of(executable: jax.stages.Compiled, target: Target) -> dict[str, Any]:
    """Return bytes of a device's memory by use, at most, and their share of it."""
    plan: Any = executable.memory_analysis()
    found = {
        "arguments": plan.argument_size_in_bytes,
        "outputs": plan.output_size_in_bytes,
        "temporaries": plan.temp_size_in_bytes,
        "donated": plan.alias_size_in_bytes,
    }
    found["peak"] = found["arguments"] + found["outputs"] + found["temporaries"] - found["donated"]
    return found | ({"share": found["peak"] / target.memory} if target.memory else {})


def flops_of(executable: jax.stages.Compiled) -> float:
    """Return the operations that the compiler counts."""
    analysis: Any = executable.cost_analysis() or {}
    return float((analysis[0] if isinstance(analysis, list) else analysis).get("flops", 0.0))


def collectives_of(taken: list[Step]) -> dict[str, dict[str, int]]:
    """Return number of calls and bytes sent of each kind of collective."""
    found: dict[str, dict[str, int]] = {}
    for step in taken:
        if name := step.collective:
            calls = found.setdefault(name, {"count": 0, "bytes": 0})
            calls["count"] += step.times
            calls["bytes"] += step.times * step.sent
    return found


def sources_of(taken: list[Step], costs: list[float]) -> list[dict[str, Any]]:
    """Return the most expensive sources, each with its share of all costs and its number of steps."""
    seconds: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for step, cost in zip(taken, costs, strict=True):
        seconds[step.source] += cost
        counts[step.source] += step.times
    dearest = sorted(seconds, key=lambda source: -seconds[source])[:MOST_SOURCES]
    return [
        {"source": source, "share": round(seconds[source] / sum(costs), 4), "steps": counts[source]}
        for source in dearest
    ]


def main() -> int:
    """Print the figures of the job that is given in JSON; a mistake of the user's as {"refused": …}."""
    text, known = sys.argv[1:]
    job = Job(**json.loads(text))
    try:
        print(json.dumps(compiled(job, json.loads(known))))
    except UserError as error:
        print(json.dumps({"refused": str(error)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
