"""The training run behind the golden trajectories: two epochs on scikit-learn's digits, in float64."""

import copy
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from tests.golden_format import GoldenFile, architecture_config, deterministic_state_dict
from tests.torch_twin.conversion import converted
from tests.torch_twin.layers import MaskedPointwise
from tests.torch_twin.network import CondenseNetTwin, build_twin
from tests.torch_twin.pruning import prune_to_progress

EVALUATED_SAMPLES = slice(1500, 1564)


def digit_images() -> tuple[Tensor, Tensor]:
    """Images float64 [1797, 3, 32, 32] in [−1, 1] and labels int64 [1797]."""
    pixels, labels = load_digits(return_X_y=True)
    # Scaled in float32 first, as the golden run's data were.
    images = (pixels.reshape(-1, 1, 8, 8).astype(np.float32) / 16 - 0.5) / 0.5
    images = images.repeat(4, axis=2).repeat(4, axis=3).repeat(3, axis=1)
    return torch.from_numpy(images).double(), torch.from_numpy(labels)


def golden_twin(golden: GoldenFile) -> CondenseNetTwin:
    """The unpruned network of a golden file with its deterministic weights, in float64 and eval mode."""
    model = build_twin(architecture_config(golden))
    state = deterministic_state_dict(golden.meta["state_dict"], golden.meta["salt"])
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return model.double().eval()


def _optimizer(model: nn.Module, meta: dict[str, Any]) -> torch.optim.SGD:
    """Nesterov SGD that decays only tensors of two or more dimensions."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": meta["weight_decay"]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=meta["lr"], momentum=meta["momentum"], nesterov=meta["nesterov"])


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves the averaged weights and BN statistics towards the model's; masks and counters are copied."""
    for key, (mean, value) in _paired_state(average, model).items():
        bookkeeping = key.endswith(("._mask", "._count", "._stage", ".num_batches_tracked"))
        mean.copy_(value if bookkeeping else decay * mean + (1 - decay) * value)


def _paired_state(first: nn.Module, second: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    other = second.state_dict()
    return {key: (tensor, other[key]) for key, tensor in first.state_dict().items()}


def _mask_ones(model: nn.Module) -> dict[str, int]:
    return {name: int(m._mask.sum()) for name, m in model.named_modules() if isinstance(m, MaskedPointwise)}


def train_trajectory(golden: GoldenFile) -> dict[str, Any]:
    """Repeats the run of a trajectory file.

    Returns NumPy arrays under the names of the file: `loss` and `lr` [steps], `mask_ones` [steps, layers] in the order
    of the file's `mask_layers`, `logits_final`, `logits_final_ema` and `logits_converted` [64, 10]; and `masks`, the
    final mask [out, in, 1, 1] by state_dict key.
    """
    meta = golden.meta
    steps, batch = meta["epochs"] * meta["steps_per_epoch"], meta["batch_size"]
    images, labels = digit_images()
    model = golden_twin(golden)
    average = copy.deepcopy(model)
    optimizer = _optimizer(model, meta)
    losses, rates, ones = [], [], []
    model.train()
    for step in range(steps):
        start = step % meta["steps_per_epoch"] * batch
        rate = 0.5 * meta["lr"] * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        prune_to_progress(model, step / steps)
        logits = model(images[start : start + batch])
        loss = F.cross_entropy(logits, labels[start : start + batch], label_smoothing=meta["label_smoothing"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        _update_average(average, model, meta["ema_decay"])
        losses.append(loss.item())
        rates.append(rate)
        counts = _mask_ones(model)
        ones.append([counts[name] for name in golden.arrays["mask_layers"]])
    return {
        "loss": np.array(losses),
        "lr": np.array(rates),
        "mask_ones": np.array(ones),
        **_final_logits(model.eval(), average, images[EVALUATED_SAMPLES]),
        "masks": {key: value.numpy() for key, value in model.state_dict().items() if key.endswith("._mask")},
    }


@torch.no_grad()
def _final_logits(model: CondenseNetTwin, average: CondenseNetTwin, images: Tensor) -> dict[str, np.ndarray]:
    networks = {"logits_final": model, "logits_final_ema": average, "logits_converted": converted(model)}
    return {name: network(images).numpy() for name, network in networks.items()}
