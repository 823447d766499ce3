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
from cdnv2_jax.networks.family import build_network
from cdnv2_jax.networks.image_channels import refuse_other_than_rgb
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.open import open_network


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
    class_names: Sequence[str] | None,
    overrides: Mapping[str, Any],
    dtype: DTypeLike,
    seed: int,
    fields: tuple[str, str] = ("config.model.checkpoint", "config.model.name"),
) -> StartingPoint:
    """Load the network at `path` as a starting point for training.

    If it knows all the classes, by name (see `labels_in_network`), their outputs are taken from its classifier, in
    the order of `class_names`. Otherwise the classifier is re-initialised.

    Args:
      path: checkpoint, ours (of any architecture with that `name`) or official, masked or condensed.
      name: name of the model in an official file; our own checkpoints must store this name.
      class_names: names of the classes, in the order of their labels; None to keep the classifier.
      overrides: changes to the architecture of an official file; our own checkpoints store theirs.
      dtype: dtype of the computation.
      seed: seed of a re-initialised classifier.
      fields: what messages call `path` and `name`.

    Raises:
      UserError: there is no such checkpoint, it holds another model or one for other images than RGB, or its classifier
        cannot be replaced.
    """
    opened = open_network(path, model=name, overrides=overrides, classifier_required=False)
    found, (where, called) = opened.network, fields
    if found.name != name:
        raise UserError(f"{where} {path} holds a {found.name}, but {called} is {name}")
    refuse_other_than_rgb(found, f"{where} {path}")
    labels: list[int] | None = list(range(found.architecture.num_classes))
    remark = ""
    if not opened.has_classifier:
        labels, remark = None, f"the classifier is re-initialised: {path} has none"
    elif class_names is not None and list(class_names) != list(opened.class_names):
        labels, remark = _outputs_of(class_names, opened.class_names, len(labels))
    same = labels == list(range(found.architecture.num_classes))
    if not same and found.form.halved_classifier:
        raise UserError(
            f"{where} {path} has a halved classifier, which cannot be replaced: use the masked network, or train "
            f"on its own {found.architecture.num_classes} classes"
        )
    architecture = (
        found.architecture if class_names is None else found.architecture.override({"num_classes": len(class_names)})
    )
    model = build_network(architecture, found.form, name=name, dtype=dtype, rngs=nnx.Rngs(seed))
    kept = nnx.to_flat_state(nnx.state(found))
    if not same:
        kept = [(place, variable) for place, variable in kept if place[0] != "classifier"]
    nnx.update(model, nnx.from_flat_state(kept))
    if labels is not None and not same:
        for part in ("kernel", "bias"):
            values = np.asarray(getattr(found.classifier, part)[...])[..., labels]
            getattr(model.classifier, part).set_value(jax.device_put(values))
    taken = f"{where} {path}: {opened.taken}" if opened.taken else ""
    return StartingPoint(model, "; ".join(filter(None, [taken, remark])))


def _outputs_of(wanted: Sequence[str], known: Sequence[str], num_classes: int) -> tuple[list[int] | None, str]:
    """Return (outputs of the checkpoint's classifier for the wanted classes, or None for a new one; remark)."""
    labels = labels_in_network(wanted, known, num_classes)
    found = [label for label in labels if label is not None]
    if matched_by_position(wanted, known):
        if found:
            return found, f"the checkpoint's classifier is kept: {num_classes} classes, matched by position"
        return None, f"the classifier is re-initialised: {len(wanted)} classes, the checkpoint has {num_classes}"
    if unknown := [name for name, label in zip(wanted, labels, strict=True) if label is None]:
        return None, f"the classifier is re-initialised: the checkpoint does not know {listed(unknown)}"
    if found == list(range(num_classes)):
        return found, ""
    return found, f"the classifier's {len(found)} outputs are those of the checkpoint's {num_classes:,}, by name"
