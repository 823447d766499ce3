"""Small networks in every form, and what a checkpoint directory holds."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax import condense, create_model, prune
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.checkpoint import flat_arrays
from cdnv2_jax.weights.checksums import sealed

FORMS = ["dense", "partly pruned", "pruned", "condensed", "halved"]


@functools.cache
def network(form: str = "dense", seed: int = 0, **changes: Any) -> CondenseNet:
    """A CondenseNetV2 (for "halved" a CondenseNet) in evaluation mode, its statistics unlike a fresh network's.

    The same object for the same arguments: clone it before changing it.
    """
    sizes: dict[str, Any] = {"stages": (1, 1), "growth": (8, 8), "groups": 4, "condensation_factor": 4}
    name = "condensenet_50" if form == "halved" else "cdnv2_cifar_110"
    model = create_model(name, num_classes=3, rngs=nnx.Rngs(seed), **{**sizes, **changes})
    assert isinstance(model, CondenseNet)
    model.eval()
    model.norm_last.mean[...] += jnp.linspace(-1, 1, model.norm_last.features, dtype=model.norm_last.mean.dtype)
    model.norm_last.batches[...] += 17
    if form != "dense":
        prune(model, 1 if form == "partly pruned" else model.condensation_stages)
    return condense(model, halve_classifier=form == "halved") if form in ("condensed", "halved") else model


def used(model: Network, usage: Usage | None) -> Network:
    """A copy of the network with that usage."""
    copy = nnx.clone(model)
    copy.usage = usage
    return copy


def assert_same_network(actual: Network, expected: Network) -> None:
    """The same in name, architecture and form, and bit for bit in every array."""
    assert (actual.name, actual.architecture, actual.form) == (expected.name, expected.architecture, expected.form)
    ours, theirs = flat_arrays(nnx.state(actual)), flat_arrays(nnx.state(expected))
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (array.dtype, array.shape), name
        assert np.asarray(ours[name]).tobytes() == np.asarray(array).tobytes(), name


def description(path: Path) -> dict[str, Any]:
    """The JSON description of the checkpoint at `path`."""
    return json.loads(_description_file(path).read_text())


def rewrite_description(path: Path, content: Mapping[str, Any] | bytes) -> None:
    """Puts another description into the checkpoint at `path`: values, which are sealed, or bytes."""
    text = content if isinstance(content, bytes) else json.dumps(sealed(content)).encode()
    _description_file(path).write_bytes(text)


def _description_file(path: Path) -> Path:
    return path / "description" / "metadata"


def contents(path: Path) -> dict[str, bytes | None]:
    """Everything below `path` (or the file itself): what each file holds; None for a directory."""
    entries = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(entry.relative_to(path)): entry.read_bytes() if entry.is_file() else None for entry in entries}
