"""Which of a file's tensors are the network's, under which keys: what `torch` saves, with what people put around it."""

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from cdnv2_jax import UserError
from cdnv2_jax.weights.state_dicts import Weights, official_tensors, select_state_dict, without_wrappers
from tests.tables import table
from tests.weights.official_files import assert_same_bits

STATE = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)).state_dict()
OTHER = {key: tensor + 1 for key, tensor in STATE.items()}


def _prefixed(prefix: str) -> dict[str, Any]:
    return {prefix + key: tensor for key, tensor in STATE.items()}


def _chosen(contents: dict[Any, Any], weights: Weights = "auto") -> tuple[dict[str, Any], str]:
    chosen = select_state_dict(contents, weights, "file.pth")
    return official_tensors(chosen.tensors, (), "file.pth"), chosen.taken


WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.")
PREFIXES = [*WRAPPERS, "net.", "encoder.", *(a + b for a, b in itertools.product(WRAPPERS, WRAPPERS))]
PREFIXES += ["".join(order) for order in itertools.permutations(WRAPPERS)]


@table("prefix", PREFIXES)
def test_wrappers(prefix: str) -> None:
    assert_same_bits(without_wrappers(_prefixed(prefix)), STATE)


def test_some_keys_are_wrapped() -> None:
    """By DataParallel or `torch.compile`, applied to a part; other prefixes may be the network's own names."""
    half = dict(itertools.islice(STATE.items(), 3))
    assert_same_bits(without_wrappers({**STATE, **{f"module._orig_mod.{key}": t for key, t in half.items()}}), STATE)
    inner = {key.replace(".", "._orig_mod._fsdp_wrapped_module.", 1): tensor for key, tensor in STATE.items()}
    assert_same_bits(without_wrappers(inner), STATE)
    own = {"backbone.weight": STATE["0.weight"], "conv.weight": STATE["0.weight"]}
    assert_same_bits(without_wrappers(own), own)


def test_names_of_the_network_itself() -> None:
    own = {"model.weight": STATE["0.weight"], "head.weight": STATE["2.weight"]}
    assert_same_bits(without_wrappers(own, ["head.weight"]), own)
    assert_same_bits(without_wrappers({f"module.{k}": t for k, t in own.items()}, ["head.weight"]), own)


def test_parts_with_prefixes_of_their_own() -> None:
    """As mmpretrain has backbone and head."""
    parts = {f"{'head' if key.startswith('2') else 'backbone'}.{key}": tensor for key, tensor in STATE.items()}
    assert_same_bits(without_wrappers(parts), STATE)


def test_key_twice() -> None:
    assert_same_bits(without_wrappers({**_prefixed("module."), **STATE}), STATE)
    for other in (STATE["2.bias"] + 1, STATE["2.bias"].double(), STATE["2.bias"][:1]):
        with pytest.raises(UserError, match=r"file.pth holds 2.bias twice, .* different values: delete one"):
            without_wrappers({**_prefixed("module."), **STATE, "2.bias": other}, source="file.pth")


NESTED: dict[str, tuple[dict[Any, Any], str]] = {
    "bare": (dict(STATE), ""),
    "bare with an epoch": ({**STATE, "epoch": 3, "note": None}, ""),
    "empty average": ({"state_dict": STATE, "state_dict_ema": {}}, ""),
    "average is a flag": ({"state_dict": STATE, "ema": True}, ""),
    "metric that is a tensor": ({"state_dict": STATE, "best": torch.tensor(0.7)}, ""),
    "nested twice": ({"model": {"state_dict": STATE, "epoch": 3}}, ""),
    "lightning": ({"state_dict": _prefixed("model."), "hyper_parameters": {"lr": 0.1}, "loops": {}}, ""),
    "torchvision's reference scripts": (
        {"model": OTHER, "model_ema": {**_prefixed("module."), "n_averaged": torch.tensor(3)}},
        "EMA weights (model_ema); the file also holds model",
    ),
    "average inside": (
        {"model": {"state_dict": OTHER, "ema_state_dict": STATE}},
        "EMA weights (model.ema_state_dict); the file also holds model.state_dict",
    ),
    "average alone": ({"ema": {"model": STATE}}, "EMA weights (ema.model)"),
    "two of live weights": (
        {"model": OTHER, "state_dict": STATE},
        "live weights (state_dict); the file also holds model",
    ),
}
for key in ("state_dict", "model", "model_state_dict", "net", "network", "params", "weights", "module"):
    NESTED[key] = ({key: STATE, "epoch": 3, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}, "")


@table("contents, taken", NESTED)
def test_nested(contents: dict[Any, Any], taken: str) -> None:
    found, said = _chosen(contents)
    assert_same_bits(found, {**found, **STATE})
    assert {key for key in found if key not in STATE} <= {"epoch", "note"}
    assert said == taken


def test_choice() -> None:
    both = {"model": STATE, "model_ema": OTHER}
    assert_same_bits(_chosen(both, "model")[0], STATE)
    assert _chosen(both, "model")[1] == "live weights (model); the file also holds model_ema"
    assert_same_bits(_chosen(both, "ema")[0], OTHER)
    with pytest.raises(UserError, match="no EMA state_dict; it holds 'net': choose weights \"model\""):
        _chosen({"net": STATE}, "ema")


def test_a_dict_that_contains_itself() -> None:
    cyclic: dict[str, Any] = {"epoch": 3}
    cyclic["state_dict"] = cyclic["model"] = cyclic
    with pytest.raises(UserError, match="has no state_dict"):
        _chosen(cyclic)


def test_what_thop_leaves() -> None:
    counts = {f"{prefix}total_{what}": torch.zeros(1) for prefix in ("", "0.", "2.") for what in ("ops", "params")}
    assert_same_bits(_chosen({"state_dict": {**_prefixed("module."), **counts}})[0], STATE)


def test_pruned_by_torch() -> None:
    """`torch.nn.utils.prune` stores weights and mask; its forward pass uses their product."""
    conv = nn.Conv2d(3, 4, 3)
    module = nn.Sequential(conv, nn.BatchNorm2d(4))
    prune.l1_unstructured(conv, "weight", amount=0.5)
    found, _ = _chosen(module.state_dict())
    assert set(found) == {key for key in STATE if not key.startswith("2")}
    np.testing.assert_array_equal(found["0.weight"], conv.weight.detach())
    assert (found["0.weight"] == 0).mean() == 0.5


def _quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch will give up making them, but files have them
        return torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8)


UNREADABLE = {
    "sparse": (torch.eye(3).to_sparse(), "save tensor.to_dense()"),
    "sparse vector": (torch.ones(3).to_sparse(), "save tensor.to_dense()"),
    "quantised": (_quantised(), "save the state_dict of the float"),
    "without data": (torch.empty(3, device="meta"), "no data"),
    "one number seen as many": (torch.zeros(1).expand(10**12, 3), "stores 1: save tensor.contiguous()"),
}


@table("tensor, complaint", UNREADABLE)
def test_unreadable_tensors(tensor: torch.Tensor, complaint: str) -> None:
    with pytest.raises(UserError) as refusal:
        _chosen({**STATE, "2.bias": tensor})
    assert str(refusal.value).startswith("file.pth: 2.bias: ")
    assert complaint in str(refusal.value)


def test_a_key_wrapped_a_million_times() -> None:
    """It must not take a pass for each."""
    assert_same_bits(without_wrappers({f"{'module.' * 10**6}0.bias": STATE["0.bias"]}), {"0.bias": STATE["0.bias"]})
    assert len(without_wrappers({f"{'model.' * 10**6}0.bias": STATE["0.bias"]})) == 1


def test_pruned_by_no_tensors() -> None:
    notes = {"note_orig": "a", "note_mask": "b"}
    assert_same_bits(_chosen({**STATE, **notes})[0], {**STATE, **notes})


def test_names_of_any_length() -> None:
    assert list(_chosen({**STATE, 10**10**4: STATE["0.bias"]})[0]) == [*STATE, "<int>"]
    with pytest.raises(UserError) as refusal:
        _chosen({"x" * 10**6: 3, "y" * 10**6: 4, "epoch": 5})
    assert len(str(refusal.value)) < 300
