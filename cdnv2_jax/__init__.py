"""CondenseNetV2 in JAX: train, prune, condense, and exchange weights with the official PyTorch code."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdnv2_jax.classification.predict import Prediction
    from cdnv2_jax.data.preparation import ImagePreparation
    from cdnv2_jax.data.usage import Usage
    from cdnv2_jax.detection.predict import DetectedImage
    from cdnv2_jax.errors import UserError
    from cdnv2_jax.networks.family import count_flops, register
    from cdnv2_jax.networks.network import Network
    from cdnv2_jax.networks.zoo import create_model, list_models
    from cdnv2_jax.prediction import detect, predict, preprocess
    from cdnv2_jax.pretrained import list_pretrained
    from cdnv2_jax.pruning.condense import condense
    from cdnv2_jax.pruning.prune import prune
    from cdnv2_jax.weights.checkpoint import load, save
    from cdnv2_jax.weights.safetensors import load_pretrained
    from cdnv2_jax.weights.torch_file import load_torch_checkpoint, to_torch_state_dict

    __version__: str

__all__ = [
    "DetectedImage",
    "ImagePreparation",
    "Network",
    "Prediction",
    "Usage",
    "UserError",
    "condense",
    "count_flops",
    "create_model",
    "detect",
    "list_models",
    "list_pretrained",
    "load",
    "load_pretrained",
    "load_torch_checkpoint",
    "predict",
    "preprocess",
    "prune",
    "register",
    "save",
    "to_torch_state_dict",
]

_HOMES = {
    "DetectedImage": "detection.predict",
    "ImagePreparation": "data.preparation",
    "Network": "networks.network",
    "Prediction": "classification.predict",
    "Usage": "data.usage",
    "UserError": "errors",
    "condense": "pruning.condense",
    "count_flops": "networks.family",
    "create_model": "networks.zoo",
    "detect": "prediction",
    "list_models": "networks.zoo",
    "list_pretrained": "pretrained",
    "load": "weights.checkpoint",
    "load_pretrained": "weights.safetensors",
    "load_torch_checkpoint": "weights.torch_file",
    "predict": "prediction",
    "preprocess": "prediction",
    "prune": "pruning.prune",
    "register": "networks.family",
    "save": "weights.checkpoint",
    "to_torch_state_dict": "weights.torch_file",
}


# Hidden from type checkers, which would otherwise accept any attribute of the package.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "__version__":
            return _version()
        # Imported on first use, so that `cdnv2 --help` and a mistyped flag do not wait for JAX.
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def _version() -> str:
    """Return the version of the installed package, or "0+unknown" in a checkout that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("cdnv2-jax")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def __dir__() -> list[str]:
    return __all__
