"""The masked network of the twin: CondenseNetV2, and CondenseNet (v1) as the same skeleton with parts left out."""

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.torch_twin.layers import (
    Activation,
    LearnedGroupConvolution,
    NormActConv,
    SparseFeatureReactivation,
    SqueezeExcite,
    hard_swish,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """What determines a network, under the official argument names; None stands for a part that v1 does not have."""

    stages: tuple[int, ...]
    growth: tuple[int, ...]
    condense_factor: int
    group_1x1: int
    group_3x3: int
    bottleneck: int
    init_stride: int
    num_classes: int
    trans_factor: int | None = None
    group_trans: int | None = None
    last_se_reduction: int | None = None
    HS_start_block: int | None = None
    SE_start_block: int | None = None
    fc_channel: int | None = None

    def activation(self, block: int) -> Activation:
        """Hard-swish from HS_start_block on, ReLU before it; blocks count from 0."""
        return hard_swish if self.HS_start_block is not None and block >= self.HS_start_block else F.relu

    def has_squeeze_excite(self, block: int) -> bool:
        """Whether the dense layers of a block, counted from 0, scale their new features by an SE."""
        return self.SE_start_block is not None and block >= self.SE_start_block


def _paper(stages: tuple[int, ...], growth: tuple[int, ...], groups: int, fc_channel: int) -> dict[str, Any]:
    """A CondenseNetV2 of the paper's table 1: one number of groups for everything, condensation factors included."""
    factors = ("condense_factor", "trans_factor", "group_1x1", "group_3x3", "group_trans")
    return {
        **dict.fromkeys(factors, groups),
        "stages": stages,
        "growth": growth,
        "bottleneck": 4,
        "last_se_reduction": 16,
        "HS_start_block": 2,
        "SE_start_block": 3,
        "fc_channel": fc_channel,
    }


_NAMED = {
    "cdnv2_a": _paper((1, 1, 4, 6, 8), (8, 8, 16, 32, 64), groups=8, fc_channel=828),
    "cdnv2_b": _paper((2, 4, 6, 8, 6), (6, 12, 24, 48, 96), groups=6, fc_channel=1024),
    "cdnv2_c": _paper((4, 6, 8, 10, 8), (8, 16, 32, 64, 128), groups=8, fc_channel=1024),
}


def _architecture(config: Mapping[str, Any]) -> Architecture:
    """Completes the configuration of a named architecture and drops the name."""
    name = config.get("name")
    fields = {**(_NAMED[name] if name else {}), **config}
    fields.pop("name", None)
    return Architecture(**{**fields, "stages": tuple(fields["stages"]), "growth": tuple(fields["growth"])})


class DenseLayer(nn.Module):
    """[N, n, H, W] → [N, n + k, H, W]: the k new channels come last, the n old ones are reactivated by the SFR.

    v1 has no SFR: there the old channels pass unchanged.
    """

    def __init__(self, in_channels: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        growth, activation = architecture.growth[block], architecture.activation(block)
        width = architecture.bottleneck * growth
        # The checkpoints list the SFR before the SE, although the SE runs first.
        self.conv_1: nn.Module = LearnedGroupConvolution(
            in_channels,
            width,
            groups=architecture.group_1x1,
            condense_factor=architecture.condense_factor,
            activation=activation,
        )
        self.conv_2 = NormActConv(width, growth, groups=architecture.group_3x3, activation=activation)
        self.sfr: nn.Module | None = None
        if architecture.group_trans is not None:
            self.sfr = SparseFeatureReactivation(
                growth,
                in_channels,
                groups=architecture.group_trans,
                condense_factor=architecture.trans_factor or architecture.group_trans,
                activation=activation,
            )
        self.se = SqueezeExcite(growth, reduction=1) if architecture.has_squeeze_excite(block) else None

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv_2(self.conv_1(x))
        if self.se is not None:
            new = self.se(new)
        old = x if self.sfr is None else x + self.sfr(new)
        return torch.cat((old, new), dim=1)


class CondenseNetTwin(nn.Module):
    """Images [N, 3, H, W] → logits [N, num_classes].

    Unlike the published networks it averages over whatever map is left, so that any image size works; at the
    training size the two agree.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        channels = 2 * architecture.growth[0]
        self.features = nn.ModuleDict()
        self.features["init_conv"] = nn.Conv2d(
            3, channels, kernel_size=3, stride=architecture.init_stride, padding=1, bias=False
        )
        for block, (layers, growth) in enumerate(zip(architecture.stages, architecture.growth, strict=True)):
            dense_layers: OrderedDict[str, nn.Module] = OrderedDict()
            for number in range(1, layers + 1):
                dense_layers[f"denselayer_{number}"] = DenseLayer(channels, block, architecture)
                channels += growth
            self.features[f"denseblock_{block + 1}"] = nn.Sequential(dense_layers)
        self.features["norm_last"] = nn.BatchNorm2d(channels)
        if architecture.last_se_reduction is not None:
            self.features["se_last"] = SqueezeExcite(channels, reduction=architecture.last_se_reduction)
        self.fc = None
        if architecture.fc_channel is not None:
            self.fc = nn.Linear(channels, architecture.fc_channel)
        self.classifier: nn.Module = nn.Linear(architecture.fc_channel or channels, architecture.num_classes)
        self._initialise()

    def _initialise(self) -> None:
        # BN starts at weight 1, bias 0 and Linear at PyTorch's default without our help.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def block_features(self, x: Tensor) -> list[Tensor]:
        """Each dense block's output, [N, channels, H, W], before the pool that follows it."""
        x = self.features["init_conv"](x)
        outputs: list[Tensor] = []
        for block in range(len(self.architecture.stages)):
            if outputs:
                x = F.avg_pool2d(x, kernel_size=2)
            x = self.features[f"denseblock_{block + 1}"](x)
            outputs.append(x)
        return outputs

    def head(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of the last block's output [N, channels, H, W]."""
        x = F.relu(self.features["norm_last"](x)).mean((2, 3), keepdim=True)
        if "se_last" in self.features:
            x = self.features["se_last"](x)
        x = x.flatten(1)
        if self.fc is not None:
            x = hard_swish(self.fc(x))
        return self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block_features(x)[-1])


def build_twin(config: Mapping[str, Any]) -> CondenseNetTwin:
    """An unpruned, freshly initialised network; `config` is what `golden_format.architecture_config` returns."""
    return CondenseNetTwin(_architecture(config))
