"""State_dicts that lack something: filled in where only one value is possible, else a line says what to save."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cdnv2_jax import UserError, to_torch_state_dict
from cdnv2_jax.layers.torch_layout import COUNTER
from cdnv2_jax.weights.open import open_network
from cdnv2_jax.weights.starting_point import network_from
from cdnv2_jax.weights.torch_file import model_from_state_dict
from tests.tables import table
from tests.torch_twin import CondenseNetTwin
from tests.torch_twin.layers import MaskedPointwise
from tests.twin_models import SMALL_V1
from tests.weights.official_files import StateDict, assert_same_bits, overrides_of, save, twin_in_form


def _loaded(state: StateDict) -> dict[str, np.ndarray]:
    return to_torch_state_dict(model_from_state_dict(state, SMALL_V1, name="condensenet_50", source="file.pth"))


def _without(state: Mapping[str, Any], *endings: str) -> dict[str, Any]:
    return {key: tensor for key, tensor in state.items() if not key.endswith(endings)}


def _counters(state: StateDict, change: Callable[[torch.Tensor], torch.Tensor]) -> StateDict:
    return {key: change(tensor) if key.endswith(COUNTER) else tensor for key, tensor in state.items()}


def test_counters_and_stages() -> None:
    """Of a partly pruned network: counters of other shapes and types, no `_count` and no `_stage`."""
    state = twin_in_form(SMALL_V1, 2).state_dict()
    odd = _counters(_without(state, "_count", "_stage"), lambda counter: counter.double().reshape(1))
    assert_same_bits(_loaded(odd), state)


def test_no_masks_at_stage_zero() -> None:
    state = twin_in_form(SMALL_V1, 0).state_dict()
    assert_same_bits(_loaded(_without(state, "_mask")), state)


def _multiplied(twin: CondenseNetTwin) -> StateDict:
    """Its state_dict with the masks multiplied into the weights, as some scripts export it."""
    with torch.no_grad():
        for layer in twin.modules():
            if isinstance(layer, MaskedPointwise):
                layer.conv.weight *= layer._mask
    return twin.state_dict()


def test_masks_that_zeros_tell() -> None:
    state = _multiplied(twin_in_form(SMALL_V1, 2))
    assert_same_bits(_loaded(_without(state, "_mask", "_count", "_stage")), state)


@table(
    "endings",
    {
        "no stages": ("_mask", "_count", "_stage"),
        "stages": ("_mask", "_count"),
        "counts": ("_mask", "_stage"),
        "masks alone": ("_mask",),
    },
)
def test_masks_that_nothing_tells(endings: tuple[str, ...]) -> None:
    """Removed weights are not zero in official files: without its masks the network would be another one, silently."""
    state = twin_in_form(SMALL_V1, 2).state_dict()
    with pytest.raises(UserError, match=r"missing: .*_mask.*save model.state_dict\(\), which holds the buffers"):
        _loaded(_without(state, *endings))


def test_parameters_alone() -> None:
    twin = twin_in_form(SMALL_V1, 2)
    with pytest.raises(UserError, match=r"save model.state_dict\(\), which holds the buffers"):
        _loaded({key: parameter.detach() for key, parameter in twin.named_parameters()})


def test_quantisation_aware_training() -> None:
    state = dict(twin_in_form(SMALL_V1, 0).state_dict())
    state["features.init_conv.weight_fake_quant.scale"] = torch.ones(1)
    with pytest.raises(UserError, match=r"1 unexpected: .*it comes from quantisation-aware training"):
        _loaded(state)


def test_backbone_alone(tmp_path: Path) -> None:
    """A starting point for training, whose classifier is new; not a classifier."""
    twin, classifier = twin_in_form(SMALL_V1, 1), ("classifier.weight", "classifier.bias")
    path = save(tmp_path / "file.pth", {"model": _without(twin.state_dict(), *classifier)})
    with pytest.raises(UserError, match=r"file.pth has no classifier .* cannot classify: train one on it"):
        open_network(path, model="condensenet_50", overrides=overrides_of(SMALL_V1))
    names = list("abcdef")
    started, remark = network_from(
        path, name="condensenet_50", class_names=names, overrides=overrides_of(SMALL_V1), dtype="float32", seed=0
    )
    assert "the classifier is re-initialised" in remark and "has none" in remark
    found = to_torch_state_dict(started)
    assert found["classifier.weight"].shape == (6, twin.classifier.in_features)
    assert found["classifier.weight"].std() > 0
    assert_same_bits(
        _without(found, "classifier.weight", "classifier.bias"), _without(twin.state_dict(), "r.weight", "r.bias")
    )


def test_other_number_of_classes() -> None:
    state = twin_in_form(SMALL_V1, 0).state_dict()
    with pytest.raises(
        UserError,
        match=r"classifier has 5 classes: give --num-classes 5, or num_classes=5 in Python and configs",
    ):
        model_from_state_dict(state, SMALL_V1.override({"num_classes": 3}), name="condensenet_50")
