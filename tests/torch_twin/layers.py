"""Layers of the PyTorch twin, masked and converted, NCHW, under the parameter names of the published checkpoints.

A masked layer keeps the full weight [out, in, 1, 1] and multiplies it by a 0/1 mask of the same shape. Its two kinds,
learned group convolution (LGC) and sparse feature reactivation (SFR), differ only in what a group is and in which
channels it can lose; `MaskedPointwise.connections` hides that difference from pruning and conversion.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


def hard_swish(x: Tensor) -> Tensor:
    """x · ReLU6(x + 3) / 6, elementwise."""
    return x * F.relu6(x + 3) / 6


class MaskedPointwise(nn.Module):
    """BN → activation → 1×1 convolution [N, in, H, W] → [N, out, H, W] whose weight is masked; no bias.

    `groups` is G, `condense_factor` is C: after C − 1 condensation stages each group keeps 1/C of its removable
    channels. Buffers: `_mask` [out, in, 1, 1]; `_count` [1], the channels removed per group; `_stage` [1].
    """

    _mask: Tensor
    _count: Tensor
    _stage: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int, condense_factor: int, activation: Activation
    ) -> None:
        super().__init__()
        self.groups = groups
        self.condense_factor = condense_factor
        self.activation = activation
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.register_buffer("_count", torch.zeros(1))
        self.register_buffer("_stage", torch.zeros(1))
        self.register_buffer("_mask", torch.ones_like(self.conv.weight))
        if in_channels % groups or out_channels % groups or self.removable % condense_factor:
            raise ValueError(
                f"{in_channels} → {out_channels} channels do not divide into {groups} groups"
                f" and {condense_factor} condensation parts"
            )

    @property
    def removable(self) -> int:
        """R, the number of channels that every group starts with and can lose."""
        raise NotImplementedError

    def connections(self, per_weight: Tensor) -> Tensor:
        """View of a tensor shaped like the weight, [out, in, 1, 1], as [G, R, weights of one connection]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.activation(self.norm(x)), self.conv.weight * self._mask)


class LearnedGroupConvolution(MaskedPointwise):
    """Masked LGC: output channel o belongs to group o mod G; every group reads fewer and fewer inputs (R = in)."""

    @property
    def removable(self) -> int:
        return self.conv.in_channels

    def connections(self, per_weight: Tensor) -> Tensor:
        by_output = per_weight.view(-1, self.groups, self.conv.in_channels)
        return by_output.permute(1, 2, 0)


class SparseFeatureReactivation(MaskedPointwise):
    """Masked SFR: input channel j belongs to group j mod G; every group feeds fewer and fewer outputs (R = out)."""

    @property
    def removable(self) -> int:
        return self.conv.out_channels

    def connections(self, per_weight: Tensor) -> Tensor:
        by_input = per_weight.view(self.conv.out_channels, -1, self.groups)
        return by_input.permute(2, 0, 1)


class NormActConv(nn.Module):
    """BN → activation → 3×3 grouped convolution with padding 1: [N, in, H, W] → [N, out, H, W]; no bias."""

    def __init__(self, in_channels: int, out_channels: int, *, groups: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.activation(self.norm(x)))


class SqueezeExcite(nn.Module):
    """Scales each channel of [N, C, H, W] by sigmoid(Linear(ReLU(Linear(global mean)))); no biases."""

    def __init__(self, channels: int, *, reduction: int) -> None:
        super().__init__()
        squeezed = channels // reduction
        # The checkpoints number the activations too: the linear layers are fc.0 and fc.2.
        self.fc = nn.Sequential(
            nn.Linear(channels, squeezed, bias=False), nn.ReLU(), nn.Linear(squeezed, channels, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.fc(x.mean((2, 3))))
        return x * gate[:, :, None, None]


class CondensedLgc(nn.Module):
    """Converted LGC: gather → BN → activation → grouped 1×1 → shuffle; [N, in, H, W] → [N, out, H, W].

    `index` int64 [kept] names the gathered inputs, group by group; BN and convolution work on the gathered ones.
    """

    index: Tensor

    def __init__(self, kept: int, out_channels: int, *, groups: int, activation: Activation) -> None:
        super().__init__()
        self.groups = groups
        self.activation = activation
        self.norm = nn.BatchNorm2d(kept)
        self.conv = nn.Conv2d(kept, out_channels, kernel_size=1, groups=groups, bias=False)
        self.register_buffer("index", torch.zeros(kept, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        gathered = x.index_select(1, self.index)
        grouped = self.conv(self.activation(self.norm(gathered)))
        # Group g holds the outputs g, g + G, g + 2G, …: interleaving the groups restores their order.
        return F.channel_shuffle(grouped, self.groups)


class CondensedSfr(nn.Module):
    """Converted SFR: BN → activation → de-shuffle → grouped 1×1 → 0/1 matrix; [N, in, H, W] → [N, out, H, W].

    `index` float [kept, out] has one 1 per row: the output channel on which that row of the convolution lands.
    Several rows may land on the same one. `kept` is G·out/C, which is `out` only when C = G.
    """

    index: Tensor

    def __init__(self, in_channels: int, kept: int, out_channels: int, *, groups: int, activation: Activation) -> None:
        super().__init__()
        self.channels_per_group = in_channels // groups
        self.activation = activation
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, kept, kernel_size=1, groups=groups, bias=False)
        self.register_buffer("index", torch.zeros(kept, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        # Input j belongs to group j mod G: collect each group's inputs side by side.
        by_group = F.channel_shuffle(self.activation(self.norm(x)), self.channels_per_group)
        return torch.einsum("nkhw,ko->nohw", self.conv(by_group), self.index)


class CondensedLinear(nn.Module):
    """Converted classifier of CondenseNet v1: a linear layer on the inputs `index` (int64 [kept]) of [N, in]."""

    index: Tensor

    def __init__(self, kept: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(kept, out_features)
        self.register_buffer("index", torch.zeros(kept, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.index_select(1, self.index))
