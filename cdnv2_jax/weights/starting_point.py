"""A trained network as the starting point of another training, its classifier made to fit other classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.data.class_names import labels_in_network, listed, matched_by_position
from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.condensed import share_norms, with_gathered_norms
from cdnv2_jax.networks.family import build_network
from cdnv2_jax.networks.image_channels import refuse_other_than_rgb
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.open import OpenedNetwork, open_network

FIELD = "config.model.checkpoint"
"""What messages call the path of a starting point."""


class StartingPoint(NamedTuple):
    """A network to train, and what became of its classifier.

    Attributes:
      network: the network.
      remark: which of several weights were taken, and how its classifier differs from the checkpoint's; "" for neither.
    """

    network: Network
    remark: str


def network_from(
    path: Path,
    *,
    name: str,
    class_names: Sequence[str],
    overrides: Mapping[str, Any],
    dtype: DTypeLike,
    seed: int,
) -> StartingPoint:
    """Load the network at `path` as a starting point for training.

    If it knows all the classes, by name (see `labels_in_network`), their outputs are taken from its classifier, in
    the order of `class_names`. Otherwise the classifier is re-initialised.

    Args:
      path: checkpoint, ours (of any architecture with that `name`) or official, masked or condensed.
      name: name of the model in an official file; our own checkpoints must store this name.
      class_names: names of the classes, in the order of their labels.
      overrides: changes to the architecture of an official file; our own checkpoints store theirs.
      dtype: dtype of the computation.
      seed: seed of a re-initialised classifier.

    Raises:
      UserError: there is no such checkpoint, it holds another model or one for other images than RGB, or its classifier
        cannot be replaced.
    """
    opened = open_network(path, model=name, overrides=overrides, classifier_required=False)
    found = opened.network
    if found.name != name:
        raise UserError(f"{FIELD} {path} holds a {found.name}, but config.model.name is {name}")
    refuse_other_than_rgb(found, f"{FIELD} {path}")
    labels: list[int] | None = list(range(found.architecture.num_classes))
    remark = ""
    if not opened.has_classifier:
        labels, remark = None, f"the classifier is re-initialised: {path} has none"
    elif list(class_names) != list(opened.class_names):
        labels, remark = matching_outputs(class_names, opened.class_names, len(labels), layer="classifier")
    same = labels == list(range(found.architecture.num_classes))
    if not same and found.form.halved_classifier:
        raise UserError(
            f"{FIELD} {path} has a halved classifier, which cannot be replaced: use the masked network, or train "
            f"on its own {found.architecture.num_classes} classes"
        )
    architecture = found.architecture.override({"num_classes": len(class_names)})
    model = build_network(architecture, found.form, name=name, dtype=dtype, rngs=nnx.Rngs(seed))
    kept = nnx.to_flat_state(nnx.state(with_gathered_norms(found)))
    if not same:
        kept = [(place, variable) for place, variable in kept if place[0] != "classifier"]
    nnx.update(model, nnx.from_flat_state(kept))
    share_norms(model)
    if labels is not None and not same:
        for part in ("kernel", "bias"):
            values = np.asarray(getattr(found.classifier, part)[...])[..., labels]
            getattr(model.classifier, part).set_value(jax.device_put(values))
    return StartingPoint(model, "; ".join(filter(None, [remark_on_choice(opened), remark])))


def remark_on_choice(opened: OpenedNetwork) -> str:
    """Say which of a file's weights training starts from; "" if there was no choice."""
    return f"{FIELD} {opened.path}: {opened.taken}" if opened.taken else ""


def matching_outputs(
    wanted: Sequence[str], known: Sequence[str], num_classes: int, *, layer: str
) -> tuple[list[int] | None, str]:
    """Return the outputs that a checkpoint has for the wanted classes, and a remark if they are not all its own.

    Args:
      wanted: names of the classes to train.
      known: the checkpoint's; empty if unknown.
      num_classes: number of the checkpoint's classes.
      layer: what the remark calls the layer with an output for each class.

    Returns:
      ([output of each wanted class], remark), or (None, remark) if the layer must be re-initialised.
    """
    labels = labels_in_network(wanted, known, num_classes)
    found = [label for label in labels if label is not None]
    if matched_by_position(wanted, known):
        if found:
            return found, f"the checkpoint's {layer} is kept: {num_classes} classes, matched by position"
        return None, f"the {layer} is re-initialised: {len(wanted)} classes, the checkpoint has {num_classes}"
    if unknown := [name for name, label in zip(wanted, labels, strict=True) if label is None]:
        return None, f"the {layer} is re-initialised: the checkpoint does not know {listed(unknown)}"
    if found == list(range(num_classes)):
        return found, ""
    return found, f"the {layer}'s {len(found)} outputs are those of the checkpoint's {num_classes:,}, by name"
