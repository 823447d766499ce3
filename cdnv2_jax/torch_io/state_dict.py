"""Official state_dicts ↔ models, strict in both directions."""

import re
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from cdnv2_jax.errors import UserError, one_line, shorten
from cdnv2_jax.models.condensenet import CondenseNet, Form
from cdnv2_jax.models.families import AnyArchitecture, AnyNetwork, blank_network
from cdnv2_jax.models.shufflenet_v2 import ShuffleNetV2Architecture
from cdnv2_jax.torch_io.key_map import state_dict_slots
from cdnv2_jax.torch_io.plain_key_map import shufflenet_variant
from cdnv2_jax.torch_io.slots import COUNTER


class TensorLike(Protocol):
    """What a state_dict may hold: PyTorch tensors or NumPy arrays."""

    @property
    def shape(self) -> Any: ...


def to_torch_state_dict(model: AnyNetwork) -> dict[str, np.ndarray]:
    """The model's official state_dict: official keys, order, layouts and dtypes, as NumPy arrays.

    A convolution's kernel is [out, in / groups, h, w] there, a Linear's [out, in], a mask [out, in, 1, 1].
    The official classes load it (after `torch.from_numpy`) with strict=True. `_stage` and `_count` follow the masks.
    MobileNetV2 has torchvision's layout, ShuffleNetV2 that of its variant.

    Raises:
      UserError: a condensed CondenseNet (v1) with its whole classifier, a form the official code does not have.
    """
    if isinstance(model, CondenseNet) and _only_ours(model):
        raise UserError(
            "the official converted CondenseNet reads half of its classifier's inputs: "
            "use condense(model, halve_classifier=True) for a network that it can load"
        )
    return {key: slot.read() for key, slot in state_dict_slots(model).items()}


def _only_ours(model: CondenseNet) -> bool:
    v1 = model.architecture.head_width is None
    return model.form.condensed and v1 and not model.form.halved_classifier


def without_module_prefix(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The state_dict without the `module.` that DataParallel puts before every key."""
    return {re.sub(r"^module\.", "", key): tensor for key, tensor in tensors.items()}


def form_of(keys: Mapping[str, Any]) -> Form:
    """Masked or converted, told by the keys; that of plain networks, too."""
    condensed = any(key.endswith("conv_1.index") for key in keys)
    return Form(condensed, halved_classifier="classifier.linear.weight" in keys)


def model_from_state_dict(
    tensors: Mapping[str, TensorLike],
    architecture: AnyArchitecture,
    *,
    name: str,
    source: str = "state_dict",
    **dtypes: Any,
) -> AnyNetwork:
    """Builds the network that an official state_dict holds, masked, condensed or plain, in evaluation mode.

    Args:
      tensors: official keys, with or without `module.`, → tensors.
      architecture, name: of the network it must be. Of ShuffleNetV2 the keys tell the variant.
      source: what to call it in errors, usually the file.
      **dtypes: `dtype` and `param_dtype` as for `create_model`.

    Raises:
      UserError: missing, unexpected or misshapen keys (all are listed), NaN, masks that are not the same within a
        group, indices out of range.
    """
    tensors = without_module_prefix(tensors)
    if isinstance(architecture, ShuffleNetV2Architecture):
        architecture = architecture.override({"variant": shufflenet_variant(tensors)})
    model = blank_network(architecture, form_of(tensors), name=name, **dtypes)
    slots = state_dict_slots(model)
    if not any(key.endswith(COUNTER) for key in tensors):
        # PyTorch wrote no counters before 0.4.1, and reads such files as having counted nothing.
        tensors |= {key: np.zeros((), np.int64) for key in slots if key.endswith(COUNTER)}
    expected = {key: slot.layout.shape for key, slot in slots.items()}
    if complaints := mismatches(tensors, expected):
        raise UserError(f"{source} is not a {name} with {architecture.num_classes} classes: {complaints}")
    for key, slot in slots.items():
        try:
            slot.write(to_numpy(tensors[key]))
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{source}: {key}: {one_line(error)}") from error
    return model


def mismatches(tensors: Mapping[str, TensorLike], expected: Mapping[str, tuple[int, ...]]) -> str:
    """One line on everything that keys and shapes have wrong; empty when they agree."""
    missing = [key for key in expected if key not in tensors]
    unexpected = [str(key) for key in tensors if key not in expected]
    misshapen = [
        f"{key} {shape_of(tensors[key])} instead of {list(shape)}"
        for key, shape in expected.items()
        if key in tensors and shape_of(tensors[key]) != list(shape)
    ]
    found = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    return "; ".join(f"{len(keys)} {kind}: {shorten(keys)}" for kind, keys in found.items() if keys)


def shape_of(tensor: Any) -> list[int] | str:
    """The shape as a list, or the type of what is no tensor."""
    shape = getattr(tensor, "shape", None)
    return type(tensor).__name__ if shape is None else [int(side) for side in shape]


def to_numpy(tensor: Any) -> np.ndarray:
    """A PyTorch tensor or anything array-like as a NumPy array; call it once the shape is known to be right."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            tensor = tensor.float()
        return tensor.numpy()
    return np.asarray(tensor)
