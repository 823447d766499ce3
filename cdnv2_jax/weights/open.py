"""Opening a checkpoint of any kind: ours, a directory, official, a file, or safetensors of either layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.family import AnyArchitecture, AnyNetwork, build_network, family_of
from cdnv2_jax.networks.zoo import MODELS, architecture_of
from cdnv2_jax.weights import safetensors
from cdnv2_jax.weights.checkpoint import load
from cdnv2_jax.weights.torch_file import (
    Weights,
    model_from_state_dict,
    read_checkpoint,
    select_state_dict,
    without_module_prefix,
)


def open_checkpoint(
    path: Path,
    *,
    model: str | None,
    weights: Weights = "auto",
    num_classes: int | None = None,
    overrides: dict[str, Any] | None = None,
) -> AnyNetwork:
    """Our own checkpoint (a directory), an official one (a file) or a safetensors file, in evaluation mode.

    Args:
      path: the directory or file.
      model: what an official file holds; None to go by the name the file itself gives.
      weights, num_classes, overrides: for official files, as for `load_torch_checkpoint` (a safetensors file has one
        choice of weights); without `num_classes` it is as many as the file's classifier has.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or directory")
    if path.is_dir():
        return load(path)
    if path.suffix == safetensors.SUFFIX:
        if safetensors.read_metadata(path):
            return safetensors.load_safetensors(path)
        name = model or _name_in({}, path)
        tensors: Mapping[str, Any] = safetensors.read_tensors(path)
    else:
        checkpoint = read_checkpoint(path)
        name = model or _name_in(checkpoint, path)
        tensors = select_state_dict(checkpoint, weights, str(path))
    if num_classes is None:
        num_classes = _classes_in(tensors, architecture_of(name))
    architecture = architecture_of(name, num_classes, overrides)
    return model_from_state_dict(tensors, architecture, name=name, source=str(path))


CLASSIFIERS = {
    "condensenet": ("classifier.bias", "classifier.linear.bias"),  # the latter of converted CondenseNets (v1)
    "shufflenet_v2": ("fc.weight", "classifier.0.weight"),
    "mobilenet_v2": ("classifier.1.weight",),
}
"""Family → tensors whose first axis is that of the classes, of which a file has one."""


def _classes_in(tensors: Mapping[str, Any], architecture: AnyArchitecture) -> int | None:
    """As many as the classifier has outputs; None without a plausible one, which is then complained about elsewhere."""
    for key in CLASSIFIERS[family_of(architecture)]:
        shape: Any = getattr(without_module_prefix(tensors).get(key), "shape", ())
        if len(shape) in (1, 2) and shape[0]:
            return int(shape[0])
    return None


def _name_in(checkpoint: dict[str, Any], path: Path) -> str:
    # The official scripts write "cdnv2_a", "converted_cdnv2_a" or "condensenetv2.cdnv2_a".
    name = str(checkpoint.get("arch", "")).rsplit(".", 1)[-1].removeprefix("converted_")
    if name not in MODELS:
        raise UserError(f"{path} does not say which model it holds: add --model, one of {', '.join(MODELS)}")
    return name


def network_from(
    path: Path,
    *,
    name: str,
    num_classes: int | None,
    overrides: dict[str, Any],
    dtype: DTypeLike,
    seed: int,
    fields: tuple[str, str] = ("config.model.checkpoint", "config.model.name"),
) -> AnyNetwork:
    """The network at `path` with `num_classes` logits; its classifier is drawn anew where it had another number.

    Args:
      path: checkpoint, ours (of any architecture that goes by `name`) or official, masked or condensed.
      name, overrides: what an official file holds; one of ours must go by that name and knows its architecture.
      num_classes: None for as many as it has.
      dtype: of the computation. seed: of a new classifier.
      fields: what messages call `path` and `name`.

    Raises:
      UserError: no such checkpoint, one of another model, or one whose classifier cannot be replaced.
    """
    found = open_checkpoint(path, model=name, overrides=overrides)
    where, called = fields
    if found.name != name:
        raise UserError(f"{where} {path} holds a {found.name}, {called} is {name}")
    a = found.architecture
    form = found.form if isinstance(found, CondenseNet) else None
    if num_classes is None:
        num_classes = a.num_classes
    if a.num_classes != num_classes and form is not None and form.halved_classifier:
        raise UserError(
            f"{where} {path} has a halved classifier, which cannot be replaced: "
            f"use the masked network, or config.model.num_classes {a.num_classes}"
        )
    model = build_network(a.override({"num_classes": num_classes}), form, name=name, dtype=dtype, rngs=nnx.Rngs(seed))
    classifier = nnx.state(model.classifier)
    nnx.update(model, _without_classifier(nnx.state(found)))
    if a.num_classes == num_classes:
        classifier = nnx.state(found.classifier)
    nnx.update(model.classifier, classifier)
    return model


def _without_classifier(state: nnx.State) -> nnx.State:
    flat = [(path, variable) for path, variable in nnx.to_flat_state(state) if path[0] != "classifier"]
    return nnx.from_flat_state(flat)
