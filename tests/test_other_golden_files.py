"""The golden checker on files it has never seen: other architectures, weights and hyper-parameters.

The files are made here with the PyTorch twin, which `test_torch_twin.py` holds against the official figures.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

from tests.golden_check import check_file
from tests.golden_format import (
    GoldenFile,
    architecture_config,
    crc32,
    deterministic_input,
)
from tests.torch_twin import CondenseNetTwin, build_twin, converted, golden_twin, prune_to_stage, train_trajectory

V1_CIFAR = {"stages": [1, 2, 1], "growth": [4, 8, 8], "groups": 2, "input_shape": [3, 3, 32, 32], "num_classes": 7}
V1_IMAGENET = {"stages": [1, 1], "growth": [8, 16], "groups": 8, "input_shape": [1, 3, 28, 28], "num_classes": 3}
# LGC with fewer factors than groups, SFR with more: the official conversion cannot do the latter.
TRAJECTORY = {
    "stages": [1, 1, 2],
    "growth": [8, 4, 8],
    "condense_factor": 2,
    "trans_factor": 4,
    "group_1x1": 4,
    "group_3x3": 2,
    "group_trans": 2,
    "bottleneck": 2,
    "last_se_reduction": 4,
    "HS_start_block": 0,
    "SE_start_block": 1,
    "fc_channel": 24,
}


def network_file(meta: dict[str, Any]) -> GoldenFile:
    """A file of a forward pass, as the official code would have measured it."""
    arrays = {"logits_dense": np.zeros((1, meta["num_classes"]))}
    golden = GoldenFile(Path("made.npz"), {"model": "made", "salt": "another", **meta}, arrays)
    golden.meta["state_dict"] = shapes(build_twin(architecture_config(golden)))
    model = golden_twin(golden)
    images = torch.from_numpy(deterministic_input(meta["input_shape"], "another")).double()
    with torch.no_grad():
        arrays["logits_dense"] = model(images).numpy()
        prune_to_stage(model, 100)
        arrays["logits_pruned"] = model(images).numpy()
        golden.meta["masks"] = mask_entries(model)
        small = converted(model)
        arrays["logits_converted"] = small(images).numpy()
    golden.meta["converted_state_dict"] = {
        key: {"shape": list(t.shape), "crc32": crc32(t.numpy(), np.int64 if key.endswith(".index") else np.float32)}
        for key, t in small.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    return golden


def trajectory_file(config: dict[str, Any]) -> GoldenFile:
    """A file of a training run."""
    meta: dict[str, Any] = {
        "salt": "another",
        "config": config,
        "steps_per_epoch": 4,
        "epochs": 2,
        "batch_size": 8,
        "lr": 0.1,
        "weight_decay": 1e-3,
        "momentum": 0.8,
        "nesterov": False,
        "ema_decay": 0.5,
        "label_smoothing": 0.2,
    }
    golden = GoldenFile(Path("made.npz"), meta, {"logits_final": np.zeros((64, 10)), "loss": np.zeros(8)})
    twin = build_twin(architecture_config(golden))
    meta["state_dict"] = shapes(twin)
    layers = [key.removesuffix("._mask") for key in mask_entries(twin)]
    golden.arrays["mask_layers"] = np.array(layers)
    measured = train_trajectory(golden)
    meta["masks"] = {
        key: {"ones": int(mask.sum()), "crc32": crc32(mask, np.uint8)} for key, mask in measured.pop("masks").items()
    }
    golden.arrays.update(measured)
    return golden


def shapes(model: CondenseNetTwin) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in model.state_dict().items()}


def mask_entries(model: CondenseNetTwin) -> dict[str, dict[str, int]]:
    return {
        key: {"ones": int(tensor.sum()), "crc32": crc32(tensor.numpy(), np.uint8)}
        for key, tensor in model.state_dict().items()
        if key.endswith("._mask")
    }


def failed_checks(golden: GoldenFile) -> list[dict[str, Any]]:
    with jax.enable_x64(True):
        checks = list(check_file(golden))
    assert len(checks) >= 6
    return [check for check in checks if not check["ok"]]


@pytest.mark.parametrize("meta", [V1_CIFAR, V1_IMAGENET], ids=["cifar", "imagenet"])
def test_networks(meta: dict[str, Any]):
    assert failed_checks(network_file(meta)) == []


@pytest.mark.soak  # compiles a training step in float64, as the first steps of a real file do in tests/test_golden.py
def test_trajectory():
    assert failed_checks(trajectory_file(TRAJECTORY)) == []
