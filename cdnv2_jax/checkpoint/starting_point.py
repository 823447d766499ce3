"""Starting from a network that has been trained before, perhaps for other classes."""

from pathlib import Path
from typing import Any

from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.checkpoint.open import open_checkpoint
from cdnv2_jax.errors import UserError
from cdnv2_jax.models.condensenet import CondenseNet
from cdnv2_jax.models.families import AnyNetwork, build_network


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
