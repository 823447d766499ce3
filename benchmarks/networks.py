"""The networks to compare: ours, the PyTorch twins with the same weights, and their inputs."""

from typing import Literal

import numpy as np
import torch
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax import create_model, prune, to_torch_state_dict
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.family import MODELS, ModelEntry
from cdnv2_jax.networks.network import Network
from tests.torch_twin import CondenseNetTwin, build_twin
from tests.twin_models import SMALL_V2, twin_config

SMALLEST = "smallest"
"""The name of a network with every part of a CondenseNetV2, to try a benchmark out."""

Form = Literal["masked", "condensed"]
FORMS: tuple[Form, ...] = ("condensed", "masked")


def pruned_pair(name: str, dtype: DTypeLike | None = None) -> tuple[CondenseNet, CondenseNetTwin]:
    """Make a fully pruned masked network with random weights and its twin, both in evaluation mode.

    `dtype` is that of our computation; weights are float32.
    """
    model = create_model(name, rngs=nnx.Rngs(0), dtype=dtype)
    assert isinstance(model, CondenseNet)
    model.eval()
    prune(model, model.condensation_stages)
    return model, twin_of(model).eval()


def know_smallest() -> None:
    """Enter the smallest network among the models of this process."""
    MODELS.setdefault(SMALLEST, ModelEntry(SMALL_V2, 32))


def twin_of(model: Network) -> CondenseNetTwin:
    """The PyTorch network with the same weights and masks."""
    twin = build_twin(twin_config(model.architecture))
    twin.load_state_dict({key: torch.tensor(array) for key, array in to_torch_state_dict(model).items()})
    return twin


def example_images(batch: int, size: int) -> np.ndarray:
    """Make random images, float32 [batch, size, size, 3]; the same ones on every call."""
    return np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)


def example_labels(batch: int, classes: int) -> np.ndarray:
    """Make labels, int64 [batch]."""
    return np.arange(batch) % classes


def nchw(images: np.ndarray) -> np.ndarray:
    """Transpose [b, h, w, c] → [b, c, h, w], contiguous."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
