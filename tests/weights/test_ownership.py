"""A network read from PyTorch tensors owns its arrays."""

import numpy as np
import torch

from cdnv2_jax.weights.torch_file import model_from_state_dict, to_torch_state_dict
from tests.torch_twin import build_twin
from tests.twin_models import SMALL_V1, twin_config


def test_changing_the_tensors_afterwards_changes_nothing():
    twin = build_twin(twin_config(SMALL_V1))
    model = model_from_state_dict(twin.state_dict(), SMALL_V1, name="small")
    before = to_torch_state_dict(model)
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.fill_(3)
    after = to_torch_state_dict(model)
    assert [key for key in before if not np.array_equal(before[key], after[key])] == []
