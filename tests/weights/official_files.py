"""Checkpoint files as the official code writes them, made with the PyTorch twin."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.network import Architecture
from tests.torch_twin import CondenseNetTwin, converted, prune_to_stage
from tests.twin_models import random_twin

StateDict = dict[str, Tensor]


def twin_in_form(architecture: Architecture, form: int | str, salt: str = "twin") -> CondenseNetTwin:
    """A float32 twin pruned to stage `form`, or "converted"; BatchNorm counters and odd floats in it too."""
    twin = random_twin(architecture, salt).float()
    assert isinstance(architecture, CondenseNetArchitecture)
    prune_to_stage(twin, architecture.condensation_stages if form == "converted" else int(form))
    if form == "converted":
        twin = converted(twin)
    _add_rarities(twin)
    return twin


@torch.no_grad()
def _add_rarities(twin: nn.Module) -> None:
    """What a round trip could lose without changing a logit: counters, the sign of zero, subnormal numbers."""
    norms = [module for module in twin.modules() if isinstance(module, nn.BatchNorm2d)]
    for number, norm in enumerate(norms):
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.fill_(2**31 - 1 - number)
    norms[0].bias[:2] = torch.tensor([-0.0, 1e-41])


def training_file(twin: nn.Module, *, ema: nn.Module | None, arch: str) -> dict[str, Any]:
    """Everything that the official training script saves at the end of an epoch."""
    parameters = [torch.nn.Parameter(p.detach().clone()) for p in twin.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.4, momentum=0.9, nesterov=True, weight_decay=4e-5)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    file: dict[str, Any] = {
        "epoch": 349,
        "arch": arch,
        "state_dict": twin.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(model=arch, lr=0.4, data="/data", stages=[1, 1, 4, 6, 8], resume=None, ema=True),
        "version": 2,
        "metric": 64.4,
    }
    if ema is not None:
        file["state_dict_ema"] = ema.state_dict()
    return file


def converted_file(twin: nn.Module) -> dict[str, Any]:
    """What the official conversion saves."""
    return {"state_dict": twin.state_dict()}


def save(path: Path, contents: object) -> Path:
    """`torch.save`, returning the path."""
    torch.save(contents, path)
    return path


def overrides_of(architecture: Architecture) -> dict[str, Any]:
    """Turns any registered network into this one, but for the number of classes."""
    fields = dataclasses.asdict(architecture)
    del fields["num_classes"]
    return fields


def assert_same_bits(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    """Same keys in the same order; same dtype, shape and bytes under each of them."""
    assert list(actual) == list(expected)
    for key, value in expected.items():
        ours, theirs = np.asarray(actual[key]), np.asarray(value)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), key
        assert ours.tobytes() == theirs.tobytes(), key
