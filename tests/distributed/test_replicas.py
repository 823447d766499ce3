"""Batch normalisation of each device's own part of the batch, against PyTorch doing what four processes of
DistributedDataParallel do."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cdnv2_jax import load, to_torch_state_dict
from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.experiment import ClassificationExperiment
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.data.batches import HostBatch
from cdnv2_jax.data.prefetch import host_batches
from cdnv2_jax.devices import Devices
from cdnv2_jax.training.config import OptimizerConfig
from tests.distributed.runs import RUN, finished, losses
from tests.torch_twin import CondenseNetTwin, build_twin, prune_to_progress
from tests.twin_models import twin_config

REPLICAS = 4
STEPS = 14
OVERRIDES = (
    *("--config.epochs=1", "--config.batch_norm=replica"),
    *("--config.ema_decay=0.0", "--config.optimizer.warmup_epochs=0.0"),
)


@pytest.mark.usefixtures("x64")  # initial weights are drawn otherwise there
@pytest.mark.slow  # a run of 14 steps in a process of its own, and the same in PyTorch
def test_four_replicas(tmp_path: Path) -> None:
    """All losses, and every tensor after 14 steps and three pruning stages; parameters are float32 in ours."""
    workdir = finished(tmp_path / "replicas", *OVERRIDES, devices=REPLICAS)
    config = read_config(RUN[1], [*RUN[2:], *OVERRIDES])
    assert isinstance(config, ClassificationConfig)
    expected, twin = _train_like_ddp(config)
    np.testing.assert_allclose(losses(workdir), expected, rtol=1e-6)
    ours = to_torch_state_dict(load(workdir / "masked"))
    for key, tensor in twin.state_dict().items():
        if not key.endswith(("_count", "_stage", "num_batches_tracked")):
            np.testing.assert_allclose(ours[key], tensor.numpy(), rtol=1e-2, atol=1e-4, err_msg=key)


def _train_like_ddp(config: ClassificationConfig) -> tuple[list[float], CondenseNetTwin]:
    """The loss of every step, and the network after the last."""
    experiment = ClassificationExperiment(config, Devices.first_of_this_process())
    experiment.prepare_training()
    model = experiment.build_model()
    twin = build_twin(twin_config(model.architecture))
    twin.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in to_torch_state_dict(model).items()})
    twin.double().train()
    optimizer = _sgd(twin, config.optimizer)
    found = []
    with host_batches(experiment.row, 0, STEPS, 0) as batches:
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = 0.5 * config.optimizer.learning_rate * (1 + math.cos(math.pi * step / STEPS))
            prune_to_progress(twin, step / STEPS)
            found.append(_step(twin, optimizer, batch, config.label_smoothing))
    prune_to_progress(twin, 1.0)
    return found, twin


def _sgd(twin: CondenseNetTwin, config: OptimizerConfig) -> torch.optim.SGD:
    parameters = list(twin.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=1.0, momentum=config.momentum, nesterov=config.nesterov)


def _step(twin: CondenseNetTwin, optimizer: torch.optim.SGD, batch: HostBatch, smoothing: float) -> float:
    """Forward and backward of every replica on its rows, with their statistics; then the mean of gradients.

    Every replica starts from the same running statistics; their mean afterwards is what timm's `--dist-bn reduce`
    leaves.
    """
    images = torch.from_numpy(batch["image"]).double().permute(0, 3, 1, 2) / 255 * 2 - 1
    labels = torch.from_numpy(batch["label"]).long()
    before = {key: tensor.clone() for key, tensor in twin.named_buffers()}
    total = {key: torch.zeros_like(tensor) for key, tensor in before.items() if "running" in key}
    optimizer.zero_grad()
    found = 0.0
    for rows in torch.arange(len(labels)).chunk(REPLICAS):
        for key, tensor in twin.named_buffers():
            tensor.copy_(before[key])
        loss = F.cross_entropy(twin(images[rows]), labels[rows], label_smoothing=smoothing) / REPLICAS
        loss.backward()
        found += loss.item()
        for key, tensor in twin.named_buffers():
            if key in total:
                total[key] += tensor / REPLICAS
    for key, tensor in twin.named_buffers():
        if key in total:
            tensor.copy_(total[key])
    optimizer.step()
    return found
