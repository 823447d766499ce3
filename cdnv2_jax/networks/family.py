"""Families of networks, the registries of families and models, and the functions that use them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.errors import UserError, suggestion
from cdnv2_jax.layers.condensed import CondensedLinear, empty_twin, replace_masked_convs
from cdnv2_jax.layers.convolutions import OneKey
from cdnv2_jax.layers.cost import Cost
from cdnv2_jax.layers.onnx_graph import Graph, Map
from cdnv2_jax.layers.torch_layout import NamedSlots
from cdnv2_jax.networks.network import Architecture, Form, Network


@dataclasses.dataclass(frozen=True)
class TorchFormat:
    """Layout of a family's networks in PyTorch state_dicts.

    Attributes:
      slots: network → (key, slot) of every tensor, in the state_dict's order.
      classifier: keys, without `module.`, whose tensors have one row per class; a file has one of them.
      stem: likewise, kernels [out, in, h, w] that read the images.
      form: keys → the form of the network in a state_dict.
      adapt: (architecture, keys) → the architecture that matches a state_dict, for families with several layouts.
      check: raises UserError for a network that the original code cannot represent.
    """

    slots: Callable[[Any], NamedSlots]
    classifier: tuple[str, ...]
    stem: tuple[str, ...] = ()
    form: Callable[[Mapping[str, Any]], Form] = lambda keys: Form()
    adapt: Callable[[Any, Mapping[str, Any]], Any] = lambda architecture, keys: architecture
    check: Callable[[Any], None] = lambda network: None


@dataclasses.dataclass(frozen=True)
class OnnxWriter:
    """Conversion of a family's networks to ONNX nodes.

    Detectors read zeros beyond an image: `Graph.conv` and `Graph.apply` see to it, other nodes need `Graph.inside`.

    Attributes:
      maps: (graph, network, images) → {stride: map} as `Network.features` returns them; finer ones are allowed.
      head: (graph, network, the last of these maps) → the logits, as an output called "logits".
    """

    maps: Callable[[Graph, Any, Map], dict[int, Map]]
    head: Callable[[Graph, Any, Map], Map]


@dataclasses.dataclass(frozen=True)
class Family:
    """What the rest of the code needs to know about a family of networks; using a part that is None raises UserError.

    Attributes:
      name: name of the family, as stored in checkpoints.
      architecture: class of its architectures.
      network: (architecture, name=, dtype=, param_dtype=, rngs=) → a network with random weights.
      cost: (architecture, form, height, width) → the costs of the body, which computes the feature maps, and the head.
      torch: layout in PyTorch state_dicts.
      onnx: conversion to ONNX.
    """

    name: str
    architecture: type[Architecture]
    network: Callable[..., Network]
    cost: Callable[[Any, Form, int, int], tuple[Cost, Cost]] | None = None
    torch: TorchFormat | None = None
    onnx: OnnxWriter | None = None


@dataclasses.dataclass(frozen=True)
class Published:
    """Figures published by others; quoted, not reproduced here.

    Attributes:
      source: where they were published.
      top1_error: per cent, by data set.
      flops: as printed, e.g. "46M".
      params: as printed.
    """

    source: str
    top1_error: Mapping[str, float] = dataclasses.field(default_factory=dict)
    flops: str = ""
    params: str = ""


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A registered model.

    Attributes:
      architecture: the architecture, with the default number of classes.
      image_size: side of the training and evaluation images in pixels.
      interpolation: method of the evaluation resize (the official `test.py` differs between models).
      published: figures to compare with; None if there are none.
      reconstruction: whether the authors never published the configuration and this is our best guess.
    """

    architecture: Architecture
    image_size: int
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    published: Published | None = None
    reconstruction: bool = False


FAMILIES: dict[str, Family] = {}
"""Name → family, built in (see `zoo.py`) or registered by the user."""

MODELS: dict[str, ModelEntry] = {}
"""Name → model, built in or registered by the user."""


def register(name: str, model: ModelEntry, *, family: Family | None = None) -> None:
    """Add a model to the registry, so that every command and function accepts its name.

    Args:
      name: name of the model.
      model: its architecture and evaluation preprocessing.
      family: family of its architecture, if that is new.

    Raises:
      UserError: the name is taken by another model, or the family is unknown or its name taken by another one.
    """
    if family is not None and FAMILIES.setdefault(family.name, family) != family:
        raise UserError(f"there is a family {family.name!r} already: choose another name")
    if family_or_none(model.architecture) is None:
        kind = type(model.architecture).__name__
        raise UserError(f"no family has architectures of type {kind}: call register(…, family=Family(…))")
    if MODELS.setdefault(name, model) != model:
        raise UserError(f"there is a model {name!r} already: choose another name")


def family_or_none(architecture: Architecture) -> Family | None:
    """Return the family of an architecture; None if it is not registered."""
    return next((family for family in FAMILIES.values() if family.architecture is type(architecture)), None)


def family_of(architecture: Architecture) -> Family:
    """Return the family of an architecture; raise UserError if it is not registered."""
    family = family_or_none(architecture)
    if family is None:
        raise UserError(f"no family has architectures of type {type(architecture).__name__}: register one")
    return family


def find_family(name: str) -> Family:
    """Return the family called `name`; raise UserError if it is not registered."""
    if name not in FAMILIES:
        raise UserError(f"no family is called {name!r}: import the module that registers it first")
    return FAMILIES[name]


def model_entry(name: str) -> ModelEntry:
    """Return the registry's entry for `name`; raise UserError, suggesting the nearest name, if there is none."""
    if name not in MODELS:
        raise UserError(f"no model is called {name!r}: {suggestion(name, MODELS)}")
    return MODELS[name]


def build_network(
    architecture: Architecture,
    form: Form | None = None,
    *,
    name: str,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> Network:
    """Build the network of an architecture with random weights.

    Args:
      architecture: architecture of any registered family.
      form: None for the usual form; in a condensed one, the learned layers have arbitrary values, and a normalisation
        for each group (see `share_norms`).
      name: name of the network.
      dtype: as for `create_model`.
      param_dtype: as for `create_model`.
      rngs: as for `create_model`.
    """
    types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
    network = family_of(architecture).network(architecture, name=name, **types)
    if form not in (None, Form()):
        _take_form(network, form)
    return network


def _take_form(network: Network, form: Form) -> None:
    """Convert a masked network to the structure of another form; raise ValueError if it has no such form."""
    if not network.masked_convs() or not form.condensed:
        raise ValueError(f"{network.name} has no form {form}")
    replace_masked_convs(network, lambda conv, where: empty_twin(conv))
    if form.halved_classifier:
        linear = network.classifier
        if not (network.classifier_can_be_halved and isinstance(linear, nnx.Linear)):
            raise ValueError(f"the classifier of {network.name} cannot be halved")
        inputs, outputs = linear.kernel.shape
        types: dict[str, Any] = {"dtype": linear.dtype, "param_dtype": linear.kernel.dtype}
        network.classifier = CondensedLinear(inputs, outputs, **types, rngs=nnx.Rngs(0))
    network.form = form


def blank_network(
    architecture: Architecture,
    form: Form | None = None,
    *,
    name: str,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
) -> Network:
    """Return a network in evaluation mode whose variables have shapes but no values yet."""
    described = architecture, form, name, dtype, param_dtype
    try:
        hash(described)
    except TypeError:  # an architecture of a user, with a dict in it
        return nnx.merge(*_blank.__wrapped__(*described))
    return nnx.merge(*_blank(*described))


@functools.lru_cache(maxsize=8)  # tracing takes up to a second, and a run saves the same network many times
def _blank(
    architecture: Architecture, form: Form | None, name: str, dtype: DTypeLike | None, param_dtype: DTypeLike
) -> tuple[nnx.GraphDef, nnx.State]:
    types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
    model = nnx.eval_shape(lambda: build_network(architecture, form, name=name, rngs=OneKey(0), **types))
    model.eval()
    return nnx.split(model)


def replace_head(network: Network, num_classes: int, *, seed: int) -> None:
    """Replace the classifier, in place, by a randomly initialised one; UserError if it is halved."""
    if network.form.halved_classifier:
        raise UserError(
            f"this {network.name} has a halved classifier, which cannot be replaced: use the masked network, or its "
            f"own {network.architecture.num_classes} classes"
        )
    architecture = network.architecture.override({"num_classes": num_classes})
    types: dict[str, Any] = {"dtype": network.dtype, "param_dtype": network.param_dtype}
    # The classifier of a whole network of that seed, so that a seed gives one classifier however it is asked for.
    network.classifier = build_network(architecture, name=network.name, rngs=nnx.Rngs(seed), **types).classifier


def count_flops(model: Network, image_size: int | tuple[int, int]) -> Cost:
    """Count the cost of one image for a model in its current form, masked or condensed.

    Follows the official code (`measure_model`) rule for rule; see `Cost` for what is counted.

    Args:
      model: any network.
      image_size: side of a square image in pixels, or (height, width).

    Raises:
      UserError: the image is too small, or the family has no cost rule.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return network_cost(model.architecture, model.form, height, width)


def network_cost(architecture: Architecture, form: Form, height: int, width: int) -> Cost:
    """Count the cost of one image as `count_flops` does, without building the network."""
    body, head = cost_parts(architecture, form, height, width)
    return body + head


def cost_parts(architecture: Architecture, form: Form, height: int, width: int) -> tuple[Cost, Cost]:
    """Return the two parts of `network_cost`: the body, which computes the feature maps, and the head."""
    architecture.check_image(height, width)
    family = family_of(architecture)
    if family.cost is None:
        raise UserError(f"the family {family.name!r} has no cost rule: register it as Family(…, cost=…)")
    return family.cost(architecture, form, height, width)
