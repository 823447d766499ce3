"""CondenseNetV2 in JAX: train, prune, condense, and exchange weights with the official PyTorch code."""

from cdnv2_jax.checkpoint.model import load, save
from cdnv2_jax.condensation.condense import condense
from cdnv2_jax.condensation.prune import prune
from cdnv2_jax.errors import UserError
from cdnv2_jax.models.registry import create_model, list_models
from cdnv2_jax.report.cost import count_flops
from cdnv2_jax.torch_io.checkpoint import load_torch_checkpoint
from cdnv2_jax.torch_io.state_dict import to_torch_state_dict

__all__ = [
    "UserError",
    "condense",
    "count_flops",
    "create_model",
    "list_models",
    "load",
    "load_torch_checkpoint",
    "prune",
    "save",
    "to_torch_state_dict",
]
