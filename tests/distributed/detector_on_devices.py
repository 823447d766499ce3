"""The losses of some training steps of the smallest detector of a kind, on one device and on all of them, as JSON.

XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_ENABLE_X64=1 python -m tests.distributed.detector_on_devices KIND
"""

import json
import sys
from typing import Any

import jax
import numpy as np
import optax

from cdnv2_jax.data.on_device import Normalisation
from cdnv2_jax.detection.experiment import DetectionPreprocessing, detection_loss
from cdnv2_jax.detectors.detector import set_training_mode
from cdnv2_jax.devices import Devices, fetch
from cdnv2_jax.training.step import create_state, make_train_step
from tests.detection.tiny import make_targets, random_boxes, tiny_detector

BATCH, SIDE, STEPS = 16, 64, 4


def batch(seed: int) -> dict[str, np.ndarray]:
    """Images of different sizes, with none to three objects each."""
    random = np.random.default_rng(seed)
    sizes = random.integers(40, SIDE + 1, (BATCH, 2)).astype(np.int32)
    objects = [
        [(box, int(random.integers(3))) for box in random_boxes(random, image % 4, 40, 40)] for image in range(BATCH)
    ]
    targets = make_targets(objects, 3)
    images = random.integers(0, 256, (BATCH, SIDE, SIDE, 3)).astype(np.uint8)
    parts = {"boxes": targets.boxes, "labels": targets.labels, "valid": targets.valid}
    return {"image": images, "size": sizes, **{name: np.asarray(array) for name, array in parts.items()}}


def losses(kind: Any, devices: Devices) -> list[dict[str, float]]:
    """Of every step, by name."""
    optimizer = optax.sgd(0.01, momentum=0.9)
    detector = tiny_detector(kind, gain=30.0, dtype=np.float64, norm="trained", frozen_stages=0)
    graph, state = create_state(detector, optimizer, set_training_mode=set_training_mode)
    preprocess = DetectionPreprocessing(Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), seed=0)
    step = make_train_step(graph, optimizer, detection_loss, preprocess=preprocess, devices=devices)
    state, found = devices.replicate(state), []
    for number in range(STEPS):
        state, metrics = step(state, devices.put_batch(batch(number)))
        found.append({name: float(value) for name, value in fetch(metrics).items()})
    return found


if __name__ == "__main__":
    assert jax.device_count() > 1
    runs = [Devices.first_of_this_process(), Devices.all()]
    print(json.dumps([losses(sys.argv[1], run) for run in runs]))
