"""Files that can be read but do not hold the network they should: all that is wrong is said, and nothing is built."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cdnv2_jax import UserError, load_torch_checkpoint
from cdnv2_jax.weights.torch_file import model_from_state_dict
from tests.tables import table
from tests.twin_models import SMALL_V2
from tests.weights.official_files import StateDict, overrides_of, save, twin_in_form

LAYER = "features.denseblock_2.denselayer_1"
HUGE = torch.empty(1).expand(10**6, 10**6)
"""One stored number, seen as 10¹² of them."""


@pytest.fixture
def masked() -> StateDict:
    return dict(twin_in_form(SMALL_V2, 1).state_dict())


@pytest.fixture
def condensed() -> StateDict:
    return dict(twin_in_form(SMALL_V2, "converted").state_dict())


def _refusal(contents: dict[Any, Any], tmp_path: Path) -> str:
    """Loads what was saved, as a user would; the complaint, which must name the file and be short."""
    path = save(tmp_path / "file.pth.tar", contents)
    with pytest.raises(UserError) as refusal:
        load_torch_checkpoint(path, "cdnv2_cifar_110", num_classes=SMALL_V2.num_classes, **overrides_of(SMALL_V2))
    message = str(refusal.value)
    assert str(path) in message
    assert len(message) < 500 + len(str(path))
    return message


def test_missing_unexpected_and_misshapen_keys_together(masked: StateDict, tmp_path: Path) -> None:
    del masked["classifier.bias"], masked[f"{LAYER}.sfr._mask"]
    masked["classifier.scale"] = torch.zeros(3)
    masked["fc.weight"] = masked["fc.weight"].T.contiguous()
    masked[f"{LAYER}.conv_1.norm.bias"] = torch.zeros(())
    message = _refusal({"state_dict": masked}, tmp_path)
    assert "is not a cdnv2_cifar_110 with 7 classes" in message
    assert f"2 missing: {LAYER}.sfr._mask, classifier.bias" in message
    assert "1 unexpected: classifier.scale" in message
    assert f"2 misshapen: {LAYER}.conv_1.norm.bias [] instead of [24], fc.weight [48, 20] instead of [20" in message


def test_long_lists_are_cut(masked: StateDict, tmp_path: Path) -> None:
    masked = {key: tensor for key, tensor in masked.items() if not key.endswith("running_var")}
    removed = sum(key.endswith("running_var") for key in twin_in_form(SMALL_V2, 0).state_dict())
    message = _refusal({"state_dict": masked}, tmp_path)
    assert f"{removed} missing: " in message
    assert f"running_var and {removed - 1} more; save model.state_dict(), which holds the buffers too" in message


def test_another_network(tmp_path: Path) -> None:
    path = save(tmp_path / "file.pth.tar", {"state_dict": twin_in_form(SMALL_V2, 0).state_dict()})
    with pytest.raises(UserError, match=r"is not a condensenet_50 with 10 classes: \d+ missing: .* and \d+ more"):
        load_torch_checkpoint(path, "condensenet_50")


def test_another_number_of_classes(masked: StateDict, tmp_path: Path) -> None:
    path = save(tmp_path / "file.pth.tar", {"state_dict": masked})
    with pytest.raises(UserError, match=r"3 classes: 2 misshapen: classifier.weight \[7, 20\] instead of \[3, 20\]"):
        load_torch_checkpoint(path, "cdnv2_cifar_110", num_classes=3, **overrides_of(SMALL_V2))


def test_mixture_of_masked_and_converted(masked: StateDict, condensed: StateDict, tmp_path: Path) -> None:
    mixture = {**masked, **{key: condensed[key] for key in condensed if key.startswith(LAYER)}}
    assert "missing" in _refusal({"state_dict": mixture}, tmp_path)


NO_STATE_DICTS: dict[str, dict[Any, Any]] = {
    "nothing": {},
    "no state_dict": {"epoch": 3, "metric": 64.4},
    "an empty state_dict": {"state_dict": {}},
    "a list for a state_dict": {"state_dict": [torch.zeros(1)]},
    "a number for a state_dict": {"state_dict": 3},
    "tensors under numbers": {1: torch.zeros(1), 2: torch.zeros(2)},
    "a state_dict with numbers for keys": {"state_dict": {1: torch.zeros(1)}},
    "a state_dict of numbers": {"state_dict": {"features.init_conv.weight": 3}},
    "a state_dict in a state_dict": {"state_dict": {"state_dict": {"x": torch.zeros(1)}}},
}


@table("contents", NO_STATE_DICTS)
def test_no_state_dict(contents: dict[Any, Any], tmp_path: Path) -> None:
    _refusal(contents, tmp_path)


@table("value", ["text", 3, None, [1.0], {}, True])
def test_something_else_than_a_tensor(value: Any, masked: StateDict, tmp_path: Path) -> None:
    message = _refusal({"state_dict": {**masked, "classifier.bias": value}}, tmp_path)
    assert f"classifier.bias {type(value).__name__} instead of [7]" in message


@table("key", ["classifier.weight", "classifier.bias", f"{LAYER}.conv_1._mask", "unknown.weight"])
def test_tensor_that_claims_to_be_huge(key: str, masked: StateDict, tmp_path: Path) -> None:
    """10¹² numbers would not fit in memory: the shape must be refused before anything is read out."""
    assert f"{key}" in _refusal({"state_dict": {**masked, key: HUGE}}, tmp_path)


def test_bare_dict_with_a_huge_tensor(tmp_path: Path) -> None:
    assert "x" in _refusal({"x": HUGE}, tmp_path)


Change = Callable[[torch.Tensor], torch.Tensor]


def _put(position: tuple[int, ...], value: float) -> Change:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[position] = value
        return tensor

    return change


def _fill(value: complex, dtype: torch.dtype) -> Change:
    return lambda tensor: torch.full(tensor.shape, value, dtype=dtype)


def _flip(position: tuple[int, int]) -> Change:
    return lambda mask: _put(position, 1 - float(mask[position]))(mask)


NAN, INFINITY = float("nan"), float("inf")
BAD_VALUES: dict[str, tuple[str, str, Change]] = {
    "NaN in a kernel": ("features.init_conv.weight", "NaN", _put((1, 2, 0, 1), NAN)),
    "NaN in the last layer": ("classifier.bias", "NaN", _put((6,), NAN)),
    "infinite variance": ("features.norm_last.running_var", "infinity", _put((3,), INFINITY)),
    "NaN in float16": ("fc.bias", "NaN", _fill(NAN, torch.float16)),
    "NaN in bfloat16": ("fc.bias", "NaN", _fill(NAN, torch.bfloat16)),
    "more than float32 holds": ("fc.bias", "large", _fill(1e300, torch.float64)),
    "complex numbers": ("fc.bias", "complex", _fill(1j, torch.complex64)),
    "a sparse tensor": ("fc.bias", "", torch.Tensor.to_sparse),
    "a tensor without data": ("fc.bias", "", lambda tensor: torch.zeros_like(tensor, device="meta")),
    "half a mask": (f"{LAYER}.conv_1._mask", "zeros and ones", _put((0, 0, 0, 0), 0.5)),
    "NaN in a mask": (f"{LAYER}.sfr._mask", "NaN", _put((0, 0, 0, 0), NAN)),
    "a mask that differs in a group": (f"{LAYER}.conv_1._mask", "modulo 4", _flip((5, 3))),
    "an SFR mask that differs in a group": (f"{LAYER}.sfr._mask", "modulo 4", _flip((3, 5))),
    "NaN in a stage": (f"{LAYER}.sfr._stage", "NaN", _put((0,), NAN)),
    "a negative counter": (f"{LAYER}.sfr.norm.num_batches_tracked", "batches", _put((), -1)),
    "a counter too large": (f"{LAYER}.sfr.norm.num_batches_tracked", "batches", _put((), 2**31)),
}


@table("key, complaint, change", BAD_VALUES)
def test_values_that_cannot_be(key: str, complaint: str, change: Change, masked: StateDict, tmp_path: Path) -> None:
    message = _refusal({"state_dict": {**masked, key: change(masked[key])}}, tmp_path)
    assert f": {key}: " in message
    assert complaint in message


BAD_INDICES: dict[str, tuple[str, str, Change]] = {
    "an input that does not exist": ("conv_1", "[0, 24)", _put((2,), 24)),
    "a negative input": ("conv_1", "-1", _put((2,), -1)),
    "inputs as fractions": ("conv_1", "integers", lambda index: index + 0.5),
    "inputs that may have been rounded": ("conv_1", "integers", torch.Tensor.half),
    "a result that lands twice": ("sfr", "single 1", lambda index: index + torch.eye(*index.shape).flip(1)),
    "a result that lands nowhere": ("sfr", "single 1", lambda index: index * (torch.arange(48) != 7)[:, None]),
    "a result that counts half": ("sfr", "single 1", lambda index: index / 2),
    "a place that is NaN": ("sfr", "NaN", _put((0, 0), NAN)),
}


@table("part, complaint, change", BAD_INDICES)
def test_indices_that_cannot_be(
    part: str, complaint: str, change: Change, condensed: StateDict, tmp_path: Path
) -> None:
    key = f"{LAYER}.{part}.index"
    message = _refusal({"state_dict": {**condensed, key: change(condensed[key])}}, tmp_path)
    assert f": {key}: " in message
    assert complaint in message


def test_same_strictness_without_a_file() -> None:
    state = {key: tensor.numpy() for key, tensor in twin_in_form(SMALL_V2, 1).state_dict().items()}
    state["fc.bias"] = np.full(20, np.nan, np.float32)
    with pytest.raises(UserError, match=r"state_dict: fc.bias: holds NaN"):
        model_from_state_dict(state, SMALL_V2, name="cdnv2_cifar_110")
    del state["fc.bias"]
    with pytest.raises(UserError, match=r"1 missing: fc.bias"):
        model_from_state_dict(state, SMALL_V2, name="cdnv2_cifar_110")
