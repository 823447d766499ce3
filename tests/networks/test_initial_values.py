"""A fresh network's variables against those of a fresh PyTorch twin: same constants, same spread."""

import numpy as np
import pytest
import torch
from flax import nnx

from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.condensenet.network import CondenseNet
from tests.tables import table
from tests.torch_twin import build_twin
from tests.twin_models import SMALL_V1, SMALL_V2, tensors_of, twin_config

WIDE = {"stages": (1,), "growth": (64,), "num_classes": 80, "squeeze_excite_from": 0, "head_reduction": 2}
"""One layer, wide enough for statistics."""


@table(
    "architecture",
    {
        "v2": SMALL_V2.override({**WIDE, "head_width": 100}),
        "v1": SMALL_V1.override(WIDE),
    },
)
def test_fresh_network(architecture: CondenseNetArchitecture) -> None:
    torch.manual_seed(0)
    theirs = {key: value.numpy() for key, value in build_twin(twin_config(architecture)).state_dict().items()}
    ours = tensors_of(CondenseNet(architecture, name="wide", rngs=nnx.Rngs(0)))
    assert list(ours) == list(theirs)
    if architecture.head_width is None:
        # The v1 training code starts the classifier's bias from zero; the twin leaves PyTorch's default.
        theirs["classifier.bias"][:] = 0
    for key, expected in theirs.items():
        if expected.std() == 0:
            np.testing.assert_array_equal(ours[key], expected, key)
        else:
            # What a standard deviation or a mean of n numbers is uncertain by, five times over.
            uncertainty = 5 / np.sqrt(expected.size)
            assert ours[key].std() == pytest.approx(expected.std(), rel=float(uncertainty)), key
            assert abs(ours[key].mean()) < uncertainty * expected.std(), key


def test_the_seed_decides() -> None:
    networks = [tensors_of(CondenseNet(SMALL_V1, name="small", rngs=nnx.Rngs(seed))) for seed in (0, 0, 1)]
    for key in networks[0]:
        np.testing.assert_array_equal(networks[0][key], networks[1][key])
    assert (networks[0]["features.init_conv.weight"] != networks[2]["features.init_conv.weight"]).all()
