"""Other implementations' layouts of the official converted networks, recognised by their keys.

Both hold what the official conversion computes, under other names: `pytorchcv`'s CondenseNet-74, and the CondenseNetV2
of Paddle-Image-Models, whose Linear layers are stored [in, out].
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_PYTORCHCV = (
    (r"^features\.init_block\.conv\.", "features.init_conv."),
    (r"^features\.stage(\d+)\.unit(\d+)\.conv(\d)\.", r"features.denseblock_\1.denselayer_\2.conv_\3."),
    (r"^features\.post_activ\.bn\.", "features.norm_last."),
    (r"^output\.", "classifier."),
    (r"(\.conv_\d)\.bn\.", r"\1.norm."),
)
"""Pattern → replacement, applied in turn to every key."""

_PADDLE = ((r"\._mean$", ".running_mean"), (r"\._variance$", ".running_var"))
_PADDLE_NAMES = "StructuredToParameterName@@"
_PADDLE_LINEAR = re.compile(r"(^|\.)(fc|fc\.[02]|classifier)\.weight$")


def official_layout(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state_dict under official keys if it is in a known foreign layout, else as it is."""
    if "features.init_block.conv.weight" in tensors and "features.stage1.unit1.conv1.index" in tensors:
        return {_replaced(key, _PYTORCHCV): tensor for key, tensor in tensors.items()}
    if any(key.endswith("._variance") for key in tensors):
        return {
            _replaced(key, _PADDLE): np.asarray(tensor).T if _PADDLE_LINEAR.search(key) else tensor
            for key, tensor in tensors.items()
            if key != _PADDLE_NAMES
        }
    return dict(tensors)


def _replaced(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key
