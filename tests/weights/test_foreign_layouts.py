"""Files of other implementations: the converted networks under other names.

Both were compared by their logits, with pytorchcv 0.0.74 and with Paddle-Image-Models on Paddle 3.3; their keys are
written down here, so that neither is needed.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdnv2_jax import load_torch_checkpoint, to_torch_state_dict
from cdnv2_jax.weights.foreign_layouts import official_layout
from cdnv2_jax.weights.open import open_network
from tests.tables import table
from tests.twin_models import SMALL_V1, SMALL_V2
from tests.weights.official_files import assert_same_bits, overrides_of, save, twin_in_form

PYTORCHCV = {
    "features.init_block.conv.weight": "features.init_conv.weight",
    "features.stage1.unit1.conv1.index": "features.denseblock_1.denselayer_1.conv_1.index",
    "features.stage1.unit1.conv1.bn.weight": "features.denseblock_1.denselayer_1.conv_1.norm.weight",
    "features.stage1.unit1.conv1.bn.running_var": "features.denseblock_1.denselayer_1.conv_1.norm.running_var",
    "features.stage1.unit1.conv1.conv.weight": "features.denseblock_1.denselayer_1.conv_1.conv.weight",
    "features.stage1.unit1.conv2.bn.bias": "features.denseblock_1.denselayer_1.conv_2.norm.bias",
    "features.stage1.unit1.conv2.conv.weight": "features.denseblock_1.denselayer_1.conv_2.conv.weight",
    "features.stage4.unit10.conv1.bn.num_batches_tracked": (
        "features.denseblock_4.denselayer_10.conv_1.norm.num_batches_tracked"
    ),
    "features.post_activ.bn.running_mean": "features.norm_last.running_mean",
    "output.index": "classifier.index",
    "output.linear.weight": "classifier.linear.weight",
    "output.linear.bias": "classifier.linear.bias",
}
"""Keys of its condensenet74_c4_g4 → the official ones."""


def test_keys_of_pytorchcv() -> None:
    tensors = {key: np.full(1, number) for number, key in enumerate(PYTORCHCV)}
    assert official_layout(tensors) == {PYTORCHCV[key]: tensor for key, tensor in tensors.items()}


def _as_pytorchcv(official: str) -> str:
    """The other way round, by means of its own."""
    key = official.replace("init_conv", "init_block.conv").replace("norm_last", "post_activ.bn")
    key = key.replace(".norm.", ".bn.").replace("conv_", "conv").replace("denseblock_", "stage")
    return key.replace("denselayer_", "unit").replace("classifier", "output")


def test_network_of_pytorchcv(tmp_path: Path) -> None:
    state = twin_in_form(SMALL_V1, "converted").state_dict()
    theirs = {f"module.{_as_pytorchcv(key)}": tensor for key, tensor in state.items()}
    path = save(tmp_path / "file.pth", {"state_dict": theirs})
    opened = open_network(path, model="condensenet_50", overrides=overrides_of(SMALL_V1))
    assert_same_bits(to_torch_state_dict(opened.network), state)


class _Tensor:
    """A tensor as `paddle.save` pickles it in a dict of dicts: the pair of its name and its values."""

    def __init__(self, name: str, values: np.ndarray):
        self.name, self.values = name, values

    def __reduce__(self) -> Any:
        return tuple, ((self.name, self.values),)


PADDLE_LINEAR = re.compile(r"^(fc|classifier)\.weight$|\.fc\.[02]\.weight$")


def _as_paddle(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Statistics called otherwise, Linear layers [in, out], no counters."""
    found = {}
    for key, tensor in state.items():
        name = re.sub("running_mean$", "_mean", re.sub("running_var$", "_variance", key))
        values = tensor.numpy()
        found[name] = values.T.copy() if PADDLE_LINEAR.search(key) else values
    return {key: values for key, values in found.items() if not key.endswith("num_batches_tracked")}


@table("protocol, inside", [(2, False), (4, False), (4, True)])
def test_network_of_paddle(protocol: int, inside: bool, tmp_path: Path) -> None:
    """Its two Linear layers of a squeeze-and-excitation are square: only their names tell that they are transposed."""
    state = twin_in_form(SMALL_V2, "converted").state_dict()
    theirs: dict[str, Any] = {**_as_paddle(state), "StructuredToParameterName@@": {"fc.weight": "linear_0.w_0"}}
    if inside:
        theirs = {"model": {key: _Tensor(key, values) for key, values in _as_paddle(state).items()}}
    path = tmp_path / "cdnv2.pdparams"
    path.write_bytes(pickle.dumps(theirs, protocol))
    model = load_torch_checkpoint(path, "cdnv2_cifar_110", num_classes=7, **overrides_of(SMALL_V2))
    counters = {key: torch.zeros_like(tensor) for key, tensor in state.items() if key.endswith("batches_tracked")}
    assert_same_bits(to_torch_state_dict(model), {**state, **counters})
