"""Networks as official PyTorch state_dicts and files, converted strictly in both directions."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cdnv2_jax.errors import UserError, import_optional, one_line, shorten
from cdnv2_jax.files import replacing
from cdnv2_jax.layers.condensed import share_norms, with_gathered_norms
from cdnv2_jax.layers.learned import on_host
from cdnv2_jax.layers.torch_layout import COUNTER, Bookkeeping, MaskSlot, Slot
from cdnv2_jax.networks.family import TorchFormat, blank_network, family_of
from cdnv2_jax.networks.image_channels import for_channels
from cdnv2_jax.networks.network import MOST_IMAGE_CHANNELS, Architecture, Network
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.paths import as_path
from cdnv2_jax.weights.state_dicts import Weights, is_tensor, official_tensors, select_state_dict, shape_of, to_numpy
from cdnv2_jax.weights.torch_reading import read_checkpoint


class TensorLike(Protocol):
    """What a state_dict may hold: PyTorch tensors or NumPy arrays."""

    @property
    def shape(self) -> Any: ...


def to_torch_state_dict(model: Network) -> dict[str, np.ndarray]:
    """Return the model's official state_dict: official keys, order, layouts and dtypes, as NumPy arrays.

    A convolution's kernel becomes [out, in / groups, h, w], a Linear's [out, in], a mask [out, in, 1, 1]. The official
    classes load it (after `torch.from_numpy`) with strict=True. `_stage` and `_count` are derived from the masks.
    MobileNetV2 uses torchvision's layout, ShuffleNetV2 the layout of its variant.

    Raises:
      UserError: the official code has no such form, such as a condensed CondenseNet (v1) with its whole classifier.
    """
    torch_format(model.architecture).check(model)
    return {key: slot.read() for key, slot in state_dict_slots(on_host(model)).items()}


def state_dict_slots(model: Network) -> dict[str, Slot]:
    """Return every key of the model's official state_dict, in order, with the variable that holds its tensor.

    The variables are those of a copy if the condensed layers of `model` share normalisations (see `share_norms`).
    """
    return dict(torch_format(model.architecture).slots(with_gathered_norms(model)))


def torch_format(architecture: Architecture) -> TorchFormat:
    """Return the PyTorch layout of an architecture's family; UserError if it has none."""
    family = family_of(architecture)
    if family.torch is None:
        raise UserError(f"the family {family.name!r} has no PyTorch layout: give Family(…, torch=…)")
    return family.torch


def model_from_state_dict(
    tensors: Mapping[str, TensorLike],
    architecture: Architecture,
    *,
    name: str,
    source: str = "state_dict",
    classifier_required: bool = True,
    **dtypes: Any,
) -> Network:
    """Build the network that an official state_dict holds, masked, condensed or plain, in evaluation mode.

    Args:
      tensors: official keys, with or without wrappers' prefixes, → tensors; or one of the `foreign_layouts`.
      architecture: the expected architecture; if the original code has several layouts, the keys decide which.
      name: name of the network.
      source: name of the state_dict in errors, usually the file.
      classifier_required: False to fill with zeros the classifier that a state_dict lacks.
      **dtypes: `dtype` and `param_dtype` as for `create_model`.

    Raises:
      UserError: missing, unexpected or misshapen keys (all are counted), NaN, masks that differ within a group or are
        missing though connections may have been pruned, indices out of range.
    """
    official = torch_format(architecture)
    found = official_tensors(tensors, official.classifier, source)
    architecture = official.adapt(architecture, found)
    model = blank_network(architecture, official.form(found), name=name, **dtypes)
    slots = state_dict_slots(model)
    found = _completed(found, slots)
    classifier = classifier_keys(model, slots)
    expected = {key: slot.layout.shape for key, slot in slots.items()}
    body = {key: shape for key, shape in expected.items() if key not in classifier}
    if classifier and not any(key in found for key in classifier) and not mismatches(found, body):
        if classifier_required:
            raise UserError(
                f"{source} has no classifier ({shorten(classifier)}), so it cannot classify: "
                "train one on it, with config.model.checkpoint"
            )
        found |= {key: np.zeros(expected[key], np.float32) for key in classifier}
    if complaints := mismatches(found, expected, [key for key in classifier if not key.endswith("index")]):
        raise UserError(f"{source} is not a {name} with {architecture.num_classes} classes: {complaints}")
    for key, slot in slots.items():
        try:
            slot.write(to_numpy(found[key]))
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{source}: {key}: {one_line(error)}") from error
    share_norms(model)
    return model


def classifier_keys(model: Network, slots: Mapping[str, Slot]) -> list[str]:
    """Return the keys of a model's slots that hold its classifier."""
    variables = list(vars(model.classifier).values())
    return [key for key, slot in slots.items() if any(slot.variable is variable for variable in variables)]


def _completed(tensors: dict[str, Any], slots: Mapping[str, Slot]) -> dict[str, Any]:
    """Add the counters, stages and masks that a state_dict lacks but that are known; shape counters of one number."""
    found = dict(tensors)
    for key, slot in slots.items():
        if key.endswith(COUNTER) or isinstance(slot, Bookkeeping):
            # PyTorch before 0.4.1 wrote no counters. Stages are computed from masks, whatever the file says.
            tensor = found.setdefault(key, np.zeros(slot.layout.shape, np.float32))
            if shape_of(tensor) in ([], [1]):
                found[key] = to_numpy(tensor).reshape(slot.layout.shape)
        elif isinstance(slot, MaskSlot) and key not in found:
            found |= _missing_mask(tensors, key, slot)
    return found


def _missing_mask(tensors: Mapping[str, Any], key: str, slot: MaskSlot) -> dict[str, np.ndarray]:
    """Return the mask, by its key, of a layer whose stage is 0 or whose kernel is zero where there is no connection.

    Other layers may have been pruned: their removed weights are not zero. Then it returns {}.
    """
    prefix = key.removesuffix("_mask")
    stage, kernel = tensors.get(f"{prefix}_stage"), tensors.get(f"{prefix}conv.weight")
    count = tensors.get(f"{prefix}_count", stage)
    if all(shape_of(number) in ([], [1]) and not to_numpy(number).any() for number in (stage, count)):
        return {key: np.ones(slot.layout.shape, np.float32)}
    if shape_of(kernel) == list(slot.layout.shape) and (mask := slot.recovered(to_numpy(kernel))) is not None:
        return {key: mask}
    return {}


def classes_in(tensors: Mapping[str, Any], architecture: Architecture) -> int | None:
    """Return the number of classes of a state_dict's classifier; None if it has none, or none of a plausible shape."""
    for key in torch_format(architecture).classifier:
        shape = shape_of(tensors.get(key))
        if isinstance(shape, list) and len(shape) in (1, 2) and shape[0]:
            return shape[0]
    return None


def channels_in(tensors: Mapping[str, Any], architecture: Architecture) -> int:
    """Return the image channels of a state_dict's stem; the architecture's if it has no stem of a plausible shape."""
    shapes = [shape_of(tensors.get(key)) for key in torch_format(architecture).stem]
    found = [int(shape[1]) for shape in shapes if isinstance(shape, list) and len(shape) == 4]
    return next((n for n in found if 1 <= n <= MOST_IMAGE_CHANNELS), architecture.in_channels)


def load_torch_checkpoint(
    path: str | Path,
    name: str,
    *,
    weights: Weights = "auto",
    num_classes: int | None = None,
    in_channels: int | None = None,
    **overrides: Any,
) -> Network:
    """Load an official checkpoint, masked or condensed as in the file, in evaluation mode.

    ShuffleNetV2 is read from files of its authors or of torchvision, MobileNetV2 from files of torchvision.

    Args:
      path: file saved by the official code, with `state_dict` and perhaps `state_dict_ema`; keys with or without
        `module.`; dense, partly or fully pruned, or converted.
      name: the model it holds, one of `list_models()`.
      weights: "ema" or "model"; "auto" takes the EMA weights if there are any, as the official evaluation does.
      num_classes: classes it was trained for; None for the model's usual number.
      in_channels: channels of the images; None for those of the file. RGB weights are adapted to others as in `load`.
      **overrides: changes to the registry's architecture, as for `create_model`.

    Raises:
      UserError: unknown name or override; the file cannot be read safely or does not hold exactly that network (all
        mismatches are listed); or other weights than RGB are to be adapted.
    """
    architecture = architecture_of(name, num_classes, overrides)
    chosen = select_state_dict(read_checkpoint(path), weights, str(path))
    tensors = official_tensors(chosen.tensors, torch_format(architecture).classifier, str(path))
    architecture = architecture.override({"in_channels": channels_in(tensors, architecture)})
    model = model_from_state_dict(tensors, architecture, name=name, source=str(path))
    return model if in_channels is None else for_channels(model, in_channels)


def save_torch_checkpoint(path: str | Path, model: Network) -> None:
    """Write `{"state_dict", "arch"}` in the official layout; the official classes load it with strict=True."""
    torch = import_optional("torch", "torch")
    tensors = {key: torch.from_numpy(array.copy()) for key, array in to_torch_state_dict(model).items()}
    with replacing(as_path(path)) as temporary:
        torch.save({"state_dict": tensors, "arch": model.name}, temporary)


BUFFERS = ("running_mean", "running_var", "_mask")


def mismatches(
    tensors: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], classifier: Collection[str] = ()
) -> str:
    """Describe all mismatches of keys and shapes in one line; empty if there are none.

    Args:
      tensors: key → tensor.
      expected: key → shape.
      classifier: keys whose tensors have one row per class.
    """
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected and is_tensor(tensors[key])]
    wrong = [key for key, shape in expected.items() if key in tensors and shape_of(tensors[key]) != list(shape)]
    misshapen = [f"{key} {shape_of(tensors[key])} instead of {list(expected[key])}" for key in wrong]
    found = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    lists = [f"{len(keys)} {kind}: {shorten(keys, longest=110)}" for kind, keys in found.items() if keys]
    if not lists:
        return ""
    return "; ".join([*lists, _advice(tensors, missing, unexpected, wrong, classifier)])


def _advice(
    tensors: Mapping[str, Any],
    missing: list[str],
    unexpected: list[str],
    misshapen: list[str],
    classifier: Collection[str],
) -> str:
    if not missing and not unexpected and set(misshapen) <= set(classifier):
        rows = {tensors[key].shape[0] for key in misshapen if is_tensor(tensors[key]) and len(tensors[key].shape) > 0}
        if len(rows) == 1 and (count := int(rows.pop())):
            python = f"num_classes={count} in Python and configs"
            return f"its classifier has {count} classes: give --num-classes {count}, or {python}"
    if any("fake_quant" in key or "activation_post_process" in key for key in unexpected):
        return "it comes from quantisation-aware training: save the state_dict of the float network"
    if missing and not unexpected and not misshapen and all(key.endswith(BUFFERS) for key in missing):
        return "save model.state_dict(), which holds the buffers too; without its masks, a pruned layer looks whole"
    return "give the model and the sizes that the file was saved from"
