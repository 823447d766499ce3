"""Which of a file's weights are taken, how the model in it is recognised, and what is written back."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cdnv2_jax import UserError, load_torch_checkpoint, to_torch_state_dict
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.torch_file import Weights, save_torch_checkpoint
from cdnv2_jax.weights.torch_reading import read_checkpoint
from tests.tables import table
from tests.twin_models import SMALL_V1, SMALL_V2
from tests.weights.official_files import (
    assert_same_bits,
    converted_file,
    overrides_of,
    save,
    training_file,
    twin_in_form,
)

NAME = "cdnv2_cifar_110"


def _load(path: Path, weights: Weights = "auto") -> Network:
    return load_torch_checkpoint(
        path, NAME, weights=weights, num_classes=SMALL_V2.num_classes, **overrides_of(SMALL_V2)
    )


@pytest.fixture(scope="module")
def live():
    return twin_in_form(SMALL_V2, 7, "live weights")


@pytest.fixture(scope="module")
def averaged():
    return twin_in_form(SMALL_V2, 7, "averaged weights")


@table("weights, expected", [("auto", "averaged"), ("ema", "averaged"), ("model", "live")])
def test_file_with_both(weights: Weights, expected: str, live, averaged, tmp_path: Path) -> None:
    path = save(tmp_path / "both.pth.tar", training_file(live, ema=averaged, arch="cdnv2_a"))
    wanted = {"live": live, "averaged": averaged}[expected].state_dict()
    assert_same_bits(to_torch_state_dict(_load(path, weights)), wanted)


@table("weights", ["auto", "model"])
def test_file_without_average(weights: Weights, live, tmp_path: Path) -> None:
    path = save(tmp_path / "live.pth.tar", training_file(live, ema=None, arch="cdnv2_a"))
    assert_same_bits(to_torch_state_dict(_load(path, weights)), live.state_dict())


def test_average_that_is_missing(live, tmp_path: Path) -> None:
    path = save(tmp_path / "live.pth.tar", training_file(live, ema=None, arch="cdnv2_a"))
    with pytest.raises(UserError, match="no EMA state_dict; it holds 'epoch', 'arch', 'state_dict', 'optimizer'"):
        _load(path, "ema")


def test_average_that_is_none(live, tmp_path: Path) -> None:
    file = {**training_file(live, ema=None, arch="cdnv2_a"), "state_dict_ema": None}
    assert_same_bits(to_torch_state_dict(_load(save(tmp_path / "none.pth.tar", file))), live.state_dict())


def test_file_with_the_average_alone(averaged, tmp_path: Path) -> None:
    path = save(tmp_path / "ema.pth.tar", {"state_dict_ema": averaged.state_dict()})
    assert_same_bits(to_torch_state_dict(_load(path)), averaged.state_dict())
    with pytest.raises(UserError, match="no state_dict; it holds 'state_dict_ema'"):
        _load(path, "model")


@table("weights", ["auto", "model"])
def test_bare_state_dict(weights: Weights, live, tmp_path: Path) -> None:
    path = save(tmp_path / "bare.pth", live.state_dict())
    assert_same_bits(to_torch_state_dict(_load(path, weights)), live.state_dict())
    with pytest.raises(UserError, match="no EMA state_dict"):
        _load(path, "ema")


def test_data_parallel_file(live, averaged, tmp_path: Path) -> None:
    parallel = torch.nn.DataParallel(live)
    path = save(tmp_path / "parallel.pth.tar", training_file(parallel, ema=averaged, arch="cdnv2_a"))
    assert_same_bits(to_torch_state_dict(_load(path, "model")), live.state_dict())
    assert_same_bits(to_torch_state_dict(_load(path, "ema")), averaged.state_dict())


def test_file_of_the_old_serialisation(live, tmp_path: Path) -> None:
    """Before PyTorch 1.6 checkpoints were no zip archives."""
    path = tmp_path / "old.pth.tar"
    torch.save(training_file(live, ema=None, arch="cdnv2_a"), path, _use_new_zipfile_serialization=False)
    assert_same_bits(to_torch_state_dict(_load(path)), live.state_dict())


def test_converted_file(tmp_path: Path) -> None:
    twin = twin_in_form(SMALL_V2, "converted")
    model = _load(save(tmp_path / "converted_model_cdnv2_a.pth.tar", converted_file(twin)))
    assert model.form.condensed
    assert_same_bits(to_torch_state_dict(model), twin.state_dict())


def test_reading_executes_nothing_it_was_not_asked_to(live, tmp_path: Path) -> None:
    """`argparse.Namespace` is allowed while a file is read, and no longer."""
    allowed = set(torch.serialization.get_safe_globals())
    checkpoint = read_checkpoint(save(tmp_path / "file.pth.tar", training_file(live, ema=None, arch="cdnv2_a")))
    assert checkpoint["args"].lr == 0.4
    assert checkpoint["epoch"] == 349
    assert set(torch.serialization.get_safe_globals()) == allowed


@table("architecture, form", [(SMALL_V2, 4), (SMALL_V2, "converted"), (SMALL_V1, "converted")])
def test_written_file(architecture, form, tmp_path: Path) -> None:
    """A plain dict of contiguous tensors, each with storage of its own, under the official keys."""
    twin = twin_in_form(architecture, form)
    classes, overrides = architecture.num_classes, overrides_of(architecture)
    path = save(tmp_path / "in.pth.tar", converted_file(twin))
    written = tmp_path / "out.pth.tar"
    save_torch_checkpoint(written, load_torch_checkpoint(path, NAME, num_classes=classes, **overrides))
    contents = torch.load(written, weights_only=True)
    assert contents["arch"] == NAME
    assert_same_bits(contents["state_dict"], twin.state_dict())
    assert all(tensor.is_contiguous() for tensor in contents["state_dict"].values())
    twin.load_state_dict(contents["state_dict"], strict=True)


def test_torch_is_not_installed(live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "file.pth.tar", live.state_dict())
    model = _load(path)
    monkeypatch.setitem(sys.modules, "torch", None)
    for action in (lambda: _load(path), lambda: save_torch_checkpoint(tmp_path / "out.pth.tar", model)):
        with pytest.raises(UserError, match=r"pip install 'cdnv2-jax\[torch\]'"):
            action()
    assert np.all([isinstance(array, np.ndarray) for array in to_torch_state_dict(model).values()])
