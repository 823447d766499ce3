"""Small ShuffleNetV2 and MobileNetV2 in JAX and as PyTorch twins, with weights and statistics of their own."""

from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from torch import nn

from cdnv2_jax.layers.convolutions import ConvNorm
from cdnv2_jax.layers.norm import BatchNorm
from cdnv2_jax.networks.family import build_network
from cdnv2_jax.networks.mobilenet_v2 import MobileNetV2Architecture
from cdnv2_jax.networks.network import Architecture
from cdnv2_jax.networks.shufflenet_v2 import ShuffleNetV2Architecture
from tests.layers.random_norm import draw_norm
from tests.torch_twin.plain import MegviiShuffleNetV2, TorchvisionMobileNetV2, TorchvisionShuffleNetV2

SMALL_SHUFFLENET = ShuffleNetV2Architecture(
    num_classes=5, stage_channels=(16, 20, 36), stage_units=(3, 1, 1), stem_channels=6, head_channels=12
)
"""Odd halves, a first stage that the two variants divide differently, more than one unit after a split."""

SMALL_MOBILENET = MobileNetV2Architecture(
    num_classes=5,
    expansions=(1, 6, 3, 2, 2),
    channels=(8, 6, 10, 12, 14),
    repeats=(1, 2, 1, 1, 1),
    strides=(1, 2, 2, 2, 2),
    stem_channels=8,
    head_channels=20,
)
"""With and without expansion, with and without residuals; the first residual is of stride 1 and as many channels."""

SMALL: dict[str, Architecture] = {
    "shufflenet_v2, megvii": SMALL_SHUFFLENET,
    "shufflenet_v2, torchvision": SMALL_SHUFFLENET.override({"variant": "torchvision"}),
    "mobilenet_v2": SMALL_MOBILENET,
}

NAMES = {
    "shufflenet_v2, megvii": "shufflenet_v2_x1_0",
    "shufflenet_v2, torchvision": "shufflenet_v2_x1_0",
    "mobilenet_v2": "mobilenet_v2_x1_0",
}
"""Of `SMALL`: what it may go by."""


def plain_twin(architecture: Architecture) -> Any:
    """The PyTorch network of a plain architecture, in evaluation mode, PyTorch's own initial weights."""
    a: Any = architecture
    if isinstance(a, MobileNetV2Architecture):
        stages = list(zip(a.expansions, a.channels, a.repeats, a.strides, strict=True))
        return TorchvisionMobileNetV2(a.stem_channels, stages, a.head_channels, a.num_classes).eval()
    kind = TorchvisionShuffleNetV2 if a.variant == "torchvision" else MegviiShuffleNetV2
    return kind(a.stem_channels, a.stage_channels, a.stage_units, a.head_channels, a.num_classes).eval()


@torch.no_grad()
def randomise(twin: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every BatchNorm scales, biases, statistics and a counter that leave nothing as it is."""
    random = torch.Generator().manual_seed(seed)
    for number, module in enumerate(twin.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            for parameter in module.parameters():
                spread = 1.5 / max(parameter[0].numel(), 1) ** 0.5
                parameter.copy_(spread * torch.randn(parameter.shape, generator=random))
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            assert module.num_batches_tracked is not None
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
            ):
                tensor.uniform_(low, high, generator=random)
            module.num_batches_tracked.fill_(1000 + number)
    return twin


def random_twin(architecture: Architecture) -> Any:
    """`plain_twin` with random weights, BatchNorms and counters."""
    return randomise(plain_twin(architecture))


def plain_network(architecture: Architecture) -> Any:
    """Ours in evaluation mode, float32; BatchNorms make something of zeros, kernels keep sizes as they are."""
    model = build_network(architecture, name="small", rngs=nnx.Rngs(0))
    model.eval()
    random = np.random.default_rng(0)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            draw_norm(module, random)
        elif isinstance(module, ConvNorm):
            kernel = module.conv.kernel
            spread = 1.5 / np.prod(kernel.shape[:3]) ** 0.5
            kernel.set_value(jax.device_put((spread * random.standard_normal(kernel.shape)).astype(kernel.dtype)))
    return model
