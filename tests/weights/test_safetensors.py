"""Networks as safetensors: the same bits back from either layout; what a file says is checked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch

from cdnv2_jax import UserError, to_torch_state_dict
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights.checksums import checksums, sealed
from cdnv2_jax.weights.open import open_network
from cdnv2_jax.weights.safetensors import KEY, Layout, load_safetensors, read_metadata, save_safetensors
from cdnv2_jax.weights.torch_file import model_from_state_dict
from tests.plain_models import random_twin
from tests.tables import table
from tests.weights.networks import FORMS, assert_same_network, network, used
from tests.weights.official_files import assert_same_bits, twin_in_form

LAYOUTS: list[Layout] = ["ours", "official"]


@table("layout", LAYOUTS)
@table("form", FORMS)
def test_round_trip(form: str, layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    save_safetensors(path, network(form), {"note": 7}, layout)
    assert_same_network(load_safetensors(path), network(form))
    assert_same_network(open_network(path).network, network(form))
    assert read_metadata(path)["note"] == 7
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


@table("form", ["partly pruned", "condensed", "halved"])
def test_the_official_layout_is_the_official_state_dict(form: str, tmp_path: Path) -> None:
    """The same keys and bits; and classes built like the official ones take them, nothing missing or left over."""
    path = tmp_path / "network.safetensors"
    save_safetensors(path, network(form), {}, "official")
    expected = to_torch_state_dict(network(form))
    assert_same_bits({key: safetensors.numpy.load_file(path)[key] for key in expected}, expected)
    twin = twin_in_form(network(form).architecture, 1 if form == "partly pruned" else "converted")
    twin.load_state_dict(safetensors.torch.load_file(path), strict=True)


@table("name", ["shufflenet_v2_x0_5", "mobilenet_v2_x1_0"])
def test_other_families(name: str, tmp_path: Path) -> None:
    architecture = architecture_of(name)
    plain = model_from_state_dict(random_twin(architecture).state_dict(), architecture, name=name)
    for layout in LAYOUTS:
        save_safetensors(tmp_path / "network.safetensors", plain, {}, layout)
        again = load_safetensors(tmp_path / "network.safetensors")
        assert_same_bits(to_torch_state_dict(again), to_torch_state_dict(plain))


def test_files_of_others(tmp_path: Path) -> None:
    """Official tensors alone: the name has to be given, classes are counted; used as the official code does."""
    path, pruned = tmp_path / "theirs.safetensors", network("pruned")
    tensors = {key: np.array(tensor) for key, tensor in to_torch_state_dict(pruned).items()}
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"theirs.safetensors does not say which model it holds: add --model"):
        open_network(path)
    with pytest.raises(UserError, match="does not describe a network"):
        load_safetensors(path)
    sizes = {"stages": (1, 1), "growth": (8, 8), "groups": 4, "condensation_factor": 4}
    with pytest.raises(UserError, match="has no EMA state_dict"):
        open_network(path, model="cdnv2_cifar_110", overrides=sizes, weights="ema")
    opened = open_network(path, model="cdnv2_cifar_110", overrides=sizes)
    assert_same_network(opened.network, pruned)
    assert opened.usage.preparation.size == 32


@pytest.mark.parametrize("layout", ["ours", "official"])
def test_usage(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    usage = Usage(ImagePreparation(24, "centre", "bicubic", (0.1, 0.2, 0.3), (1.0, 1.0, 1.0)), ("a", "b", "c"))
    save_safetensors(path, used(network(), usage), {}, layout)
    assert open_network(path).usage == usage


def _rewrite(path: Path, change: Callable[[dict[str, np.ndarray], dict[str, Any]], None]) -> None:
    """Changes tensors and what the file says about them."""
    tensors, values = safetensors.numpy.load_file(path), read_metadata(path)
    change(tensors, values)
    values["crc32"] = checksums(tensors)
    safetensors.numpy.save_file(tensors, path, {KEY: json.dumps(sealed(values))})


def _nan(tensors: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    tensors["stem/kernel"][0, 0, 0, 0] = np.nan


def _beyond(tensors: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    tensors["blocks/0/0/lgc/index"][0, 0] = 10**6


def _before(tensors: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    tensors["blocks/0/0/sfr/index"][0, 0] = -1


def _missing(tensors: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    del tensors["stem/kernel"]


def _left_over(tensors: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    tensors["more"] = np.zeros(3)


def _misshapen(tensors: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    tensors["stem/kernel"] = tensors["stem/kernel"][:1]


def _double(tensors: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    tensors["stem/kernel"] = tensors["stem/kernel"].astype(np.float64)


def _nonsense(tensors: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    values["network"]["architecture"]["stages"] = "many"


def _undescribed(tensors: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    values["network"] = ["cdnv2_a"]


@table(
    "change, complaint",
    [
        (_nan, "stem/kernel holds NaN"),
        (_beyond, r"blocks/0/0/lgc/index must be in \[0, 16\)"),
        (_before, r"blocks/0/0/sfr/index must be in \[0, 16\)"),
        (_missing, "1 missing: stem/kernel"),
        (_left_over, "1 unexpected: more"),
        (_misshapen, "1 misshapen: stem/kernel"),
        (_double, "stem/kernel is float64, not float32"),
        (_nonsense, "does not describe a network"),
        (_undescribed, "does not describe a network"),
    ],
)
def test_what_cannot_be(change: Callable[..., None], complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    save_safetensors(path, network("condensed"), {}, "ours")
    _rewrite(path, change)
    with pytest.raises(UserError, match=complaint) as refusal:
        load_safetensors(path)
    assert str(path) in str(refusal.value)


@table("length", [0, 7, 100, -1])
def test_cut_off(length: int, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    save_safetensors(path, network(), {}, "ours")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"network.safetensors is not a complete safetensors file"):
        load_safetensors(path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_safetensors(tmp_path / "missing.safetensors")
