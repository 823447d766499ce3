"""Official checkpoint files ↔ models."""

from pathlib import Path
from typing import Any

from cdnv2_jax.files import replacing
from cdnv2_jax.models.families import AnyNetwork
from cdnv2_jax.models.registry import architecture_of
from cdnv2_jax.torch_io.read import Weights, import_torch, read_checkpoint, select_state_dict
from cdnv2_jax.torch_io.state_dict import model_from_state_dict, to_torch_state_dict


def load_torch_checkpoint(
    path: str | Path,
    name: str,
    *,
    weights: Weights = "auto",
    num_classes: int | None = None,
    **overrides: Any,
) -> AnyNetwork:
    """Loads an official checkpoint file; masked or condensed, as the file is, in evaluation mode.

    Of ShuffleNetV2 files of its authors and of torchvision are read, of MobileNetV2 those of torchvision.

    Args:
      path: what the official code saved: `state_dict` and perhaps `state_dict_ema`; keys with `module.` or without;
        dense, partly or fully pruned, or converted.
      name: the model it holds, one of `list_models()`.
      weights: "ema" or "model"; "auto" takes the EMA weights where there are any, as the official evaluation does.
      num_classes: classes it was trained for; None for the model's usual number.
      **overrides: for a network that differs from the registry's, as for `create_model`.

    Raises:
      UserError: the file cannot be read safely or does not hold exactly that network (everything wrong is listed).
      ValueError: unknown name or override.
    """
    architecture = architecture_of(name, num_classes, overrides)
    tensors = select_state_dict(read_checkpoint(path), weights, str(path))
    return model_from_state_dict(tensors, architecture, name=name, source=str(path))


def save_torch_checkpoint(path: str | Path, model: AnyNetwork) -> None:
    """Writes `{"state_dict", "arch"}` in the official layout; the official classes load it with strict=True."""
    torch = import_torch()
    tensors = {key: torch.from_numpy(array.copy()) for key, array in to_torch_state_dict(model).items()}
    with replacing(Path(path)) as temporary:
        torch.save({"state_dict": tensors, "arch": model.name}, temporary)
