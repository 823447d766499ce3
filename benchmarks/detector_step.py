"""Run a detector's training step in this process; print its time and the process's peak memory as JSON.

    python -m benchmarks.detector_step DETECTOR BACKBONE HEIGHT WIDTH BATCH

`benchmarks.detectors` runs this in fresh processes.
"""

import json
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.detectors import settings
from benchmarks.networks import example_images
from cdnv2_jax import condense, create_model, prune
from cdnv2_jax.detection.experiment import detection_loss
from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.detector import PyramidDetector, set_training_mode
from cdnv2_jax.devices import Devices
from cdnv2_jax.training.config import OptimizerConfig
from cdnv2_jax.training.optimizer import learning_rate_schedule, make_optimizer
from cdnv2_jax.training.step import Batch, TrainState, TrainStep, create_state, make_train_step

OBJECTS = 7  # COCO's average per image


def detector_of(kind: str, backbone: str, *, condensed: bool = False, dtype: str | None = None) -> PyramidDetector:
    """Build a detector with random weights on a masked backbone, or on a fully pruned and condensed one."""
    network = create_model(backbone, rngs=nnx.Rngs(0), dtype=dtype)
    if condensed and network.form_name == "masked":
        prune(network, network.condensation_stages)
        network = condense(network)
    return build_detector(settings(kind), network, dtype=dtype, rngs=nnx.Rngs(0))


def train_step_of(
    kind: str, backbone: str, *, dtype: str | None = None, devices: Devices | None = None
) -> tuple[TrainState, TrainStep]:
    """Return the initial state and the training step of a detector, without preprocessing."""
    detector = detector_of(kind, backbone, dtype=dtype)
    config = OptimizerConfig(learning_rate=1e-3)
    optimizer = make_optimizer(config, learning_rate_schedule(config, 100, 100))
    graph, state = create_state(detector, optimizer, set_training_mode=set_training_mode)
    return state, make_train_step(graph, optimizer, detection_loss, devices=devices)


def step_figures(kind: str, backbone: str, canvas: tuple[int, int], batch: int) -> dict[str, float]:
    """Measure seconds of the first step (with compilation) and the second, and peak memory in GiB."""
    state, step = train_step_of(kind, backbone)
    images = example_batch(batch, canvas)
    seconds, loss = [], 0.0
    for _ in range(2):
        start = time.perf_counter()
        state, metrics = step(state, images)
        loss = float(metrics["loss"])
        seconds.append(time.perf_counter() - start)
    if not np.isfinite(loss):
        raise ValueError(f"the loss is {loss}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"first_seconds": seconds[0], "seconds": seconds[1], "peak_gib": peak}


def example_batch(batch: int, canvas: tuple[int, int]) -> Batch:
    """Make random images that fill the canvas, with random boxes."""
    height, width = canvas
    random = np.random.default_rng(0)
    corner = random.uniform(0, 0.7, (batch, OBJECTS, 2)) * (width, height)
    extent = random.uniform(0.05, 0.3, (batch, OBJECTS, 2)) * (width, height)
    return {
        "image": jnp.asarray(example_images(batch, max(canvas))[:, :height, :width]),
        "size": jnp.broadcast_to(jnp.array(canvas, jnp.int32), (batch, 2)),
        "boxes": jnp.asarray(np.concatenate([corner, corner + extent], -1), jnp.float32),
        "labels": jnp.asarray(random.integers(0, 80, (batch, OBJECTS)), jnp.int32),
        "valid": jnp.ones((batch, OBJECTS), bool),
        "key": jax.random.split(jax.random.key(0), batch),
    }


if __name__ == "__main__":
    kind, backbone, *numbers = sys.argv[1:]
    height, width, batch = map(int, numbers)
    print(json.dumps(step_figures(kind, backbone, (height, width), batch)))
