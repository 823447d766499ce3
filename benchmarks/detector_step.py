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
from cdnv2_jax import create_model
from cdnv2_jax.detection.experiment import detection_loss
from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.detector import set_training_mode
from cdnv2_jax.training.config import OptimizerConfig
from cdnv2_jax.training.optimizer import learning_rate_schedule, make_optimizer
from cdnv2_jax.training.step import Batch, create_state, make_train_step

OBJECTS = 7  # COCO's average per image


def step_figures(kind: str, backbone: str, canvas: tuple[int, int], batch: int) -> dict[str, float]:
    """Measure seconds of the first step (with compilation) and the second, and peak memory in GiB."""
    detector = build_detector(settings(kind), create_model(backbone, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
    config = OptimizerConfig(learning_rate=1e-3)
    optimizer = make_optimizer(config, learning_rate_schedule(config, 100, 100))
    graph, state = create_state(detector, optimizer, set_training_mode=set_training_mode)
    step = make_train_step(graph, optimizer, detection_loss)
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
