"""Emulate on a CPU how an accelerator rounds the operands of products, in PyTorch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MANTISSA = {"tf32": 10, "bfloat16": 7}
"""Format → stored bits of its mantissa; its exponents are those of float32."""

_aten = torch.ops.aten
OPERANDS: Mapping[Any, Sequence[int]] = {
    _aten.convolution.default: (0, 1),
    _aten.convolution_backward.default: (0, 1, 2),
    _aten.mm.default: (0, 1),
    _aten.bmm.default: (0, 1),
    _aten.addmm.default: (1, 2),
    # In inference mode, nothing is taken apart into the above.
    _aten.conv2d.default: (0, 1),
    _aten.linear.default: (0, 1),
    _aten.matmul.default: (0, 1),
}
"""Product → positions of the arguments that are multiplied."""


class RoundedProducts(TorchDispatchMode):
    """Inside, products round their operands to a format, and sum in float32.

    Args:
      format: of MANTISSA. In bfloat16, results of products are rounded too, as they are stored in bfloat16.
    """

    def __init__(self, format: str):
        super().__init__()
        self._bits = MANTISSA[format]
        self._results = format == "bfloat16"

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        positions = OPERANDS.get(function)
        if positions is None:
            return function(*args, **(kwargs or {}))
        args = [rounded(value, self._bits) if place in positions else value for place, value in enumerate(args)]
        result = function(*args, **(kwargs or {}))
        return rounded(result, self._bits) if self._results and isinstance(result, Tensor) else result


def rounded(x: Tensor, bits: int) -> Tensor:
    """Round float32 to `bits` stored bits of mantissa, to nearest, ties to even."""
    dropped = 23 - bits
    integer = x.contiguous().view(torch.int32)
    half = (1 << (dropped - 1)) - 1 + ((integer >> dropped) & 1)
    return ((integer + half) >> dropped << dropped).view(torch.float32)
