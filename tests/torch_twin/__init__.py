"""CondenseNet and CondenseNetV2 in PyTorch, written from the paper's facts: an independent oracle for the JAX model.

state_dict keys, shapes and order are those of the published checkpoints; `tests/test_torch_twin.py` holds the twin
against the golden files.
"""

from tests.torch_twin.conversion import converted
from tests.torch_twin.network import CondenseNetTwin, build_twin
from tests.torch_twin.pruning import prune_to_progress, prune_to_stage
from tests.torch_twin.training import golden_twin, train_trajectory

__all__ = [
    "CondenseNetTwin",
    "build_twin",
    "converted",
    "golden_twin",
    "prune_to_progress",
    "prune_to_stage",
    "train_trajectory",
]
