"""The converted twin without the official conversion's 0/1 matrix product, as a careful user would deploy it."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.torch_twin import CondenseNetTwin
from tests.torch_twin.layers import CondensedSfr, hard_swish
from tests.torch_twin.network import DenseLayer


class FoldedSfr(nn.Module):
    """BN → activation → one dense 1×1 convolution, [N, in, H, W] → [N, out, H, W]."""

    def __init__(self, layer: CondensedSfr) -> None:
        super().__init__()
        self.norm = layer.norm
        self.activation = layer.activation
        weight = folded_weight(layer)
        self.conv = nn.Conv2d(weight.shape[1], weight.shape[0], kernel_size=1, bias=False)
        self.conv.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.activation(self.norm(x)))


@torch.no_grad()
def folded_weight(layer: CondensedSfr) -> Tensor:
    """Fold channel shuffle, grouped convolution and `index` into one kernel [out, in, 1, 1]."""
    channels = layer.norm.num_features
    # All three are linear: the columns of their matrix are the images of the unit vectors.
    unit_vectors = torch.eye(channels)[:, :, None, None]
    kept = layer.conv(F.channel_shuffle(unit_vectors, layer.channels_per_group))
    return torch.einsum("nkhw,ko->onhw", kept, layer.index).contiguous()


def folded(converted_twin: CondenseNetTwin) -> CondenseNetTwin:
    """Return the network with folded SFRs and PyTorch's own hard-swish, one operation instead of four."""
    result = copy.deepcopy(converted_twin)
    for layer in result.modules():
        if isinstance(layer, DenseLayer) and isinstance(layer.sfr, CondensedSfr):
            layer.sfr = FoldedSfr(layer.sfr)
    for layer in result.modules():
        if getattr(layer, "activation", None) is hard_swish:
            layer.activation = F.hardswish  # pyright: ignore[reportArgumentType]
    return result.eval()
