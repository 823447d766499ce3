"""Networks whose classifier was replaced: saved as they are, or refused by `save`; a new classifier on loading."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import UserError, load, save
from cdnv2_jax.data.preparation import CIFAR10, ImagePreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.family import count_flops
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.safetensors import load_safetensors, save_safetensors
from tests.weights.networks import assert_same_network, contents, network


def _with_head(outputs: int, form: str = "pruned", *, use_bias: bool = True) -> Network:
    model = nnx.clone(network(form))
    model.classifier = nnx.Linear(model.classifier.in_features, outputs, use_bias=use_bias, rngs=nnx.Rngs(5))
    model.eval()
    return model


@pytest.mark.parametrize("form", ["dense", "pruned", "condensed"])
def test_another_number_of_classes(form: str, tmp_path: Path) -> None:
    model = _with_head(7, form)
    save(tmp_path / "it", model)
    loaded = load(tmp_path / "it")
    assert_same_network(loaded, model)
    assert loaded.architecture.num_classes == 7
    # One output more costs one multiplication per feature.
    before = count_flops(network(form), 32).multiply_adds
    assert count_flops(model, 32).multiply_adds == before + 4 * model.classifier.in_features
    save_safetensors(tmp_path / "it.safetensors", model, {}, "official" if form == "pruned" else "ours")
    assert_same_network(load_safetensors(tmp_path / "it.safetensors"), model)


def _without_bias() -> Network:
    return _with_head(3, use_bias=False)


def _with_two_layers() -> Network:
    model: Any = nnx.clone(network("pruned"))
    features = model.classifier.in_features
    layers = [nnx.Linear(features, 5, rngs=nnx.Rngs(0)), nnx.Linear(5, 3, rngs=nnx.Rngs(0))]
    model.classifier = nnx.Sequential(*layers)
    return model


def _with_another_stem() -> Network:
    model: Any = nnx.clone(network("pruned"))
    model.stem = nnx.Conv(4, 16, (3, 3), rngs=nnx.Rngs(0))
    return model


def _with_an_addition() -> Network:
    model: Any = nnx.clone(network("pruned"))
    model.extra = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    return model


@pytest.mark.parametrize("change", [_without_bias, _with_two_layers, _with_another_stem, _with_an_addition])
def test_other_changes_are_refused_before_anything_is_written(change: Callable[[], Network], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be saved, because .* are not those of a cdnv2_cifar_110"):
        save(tmp_path / "it", change())
    assert contents(tmp_path) == {}


def test_names_of_other_classes_are_refused() -> None:
    usage = Usage(ImagePreparation(32, "whole", "bilinear", *CIFAR10), ["a", "b", "c"])
    with pytest.raises(UserError, match="3 names for 7 classes"):
        _with_head(7).usage = usage


def test_new_head_on_loading(tmp_path: Path) -> None:
    save(tmp_path / "it", network("condensed"))
    first, again, other = (load(tmp_path / "it", num_classes=3, seed=seed) for seed in (4, 4, 5))
    assert_same_network(first, again)
    kernels = [np.asarray(model.classifier.kernel[...]) for model in (network("condensed"), first, other)]
    assert not np.array_equal(kernels[0], kernels[1]) and not np.array_equal(kernels[1], kernels[2])
    wider = load(tmp_path / "it", num_classes=9)
    assert isinstance(wider, CondenseNet)
    assert wider.architecture == network("condensed").architecture.override({"num_classes": 9})
    np.testing.assert_array_equal(wider.stem.kernel[...], network("condensed").stem.kernel[...])
    save(tmp_path / "again", wider)
    assert_same_network(load(tmp_path / "again"), wider)


def test_halved_classifiers_stay(tmp_path: Path) -> None:
    save(tmp_path / "it", network("halved"))
    with pytest.raises(UserError, match="halved classifier, which cannot be replaced"):
        load(tmp_path / "it", num_classes=9)
