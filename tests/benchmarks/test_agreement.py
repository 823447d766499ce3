"""What is compared with PyTorch's results in float64, and what is refused because it differs."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import parity
from benchmarks.agreement import TOLERANCE, Precision, Results, check, differences, logits_of
from benchmarks.peers.peer import DifferentResults
from benchmarks.problems import Problem, in_torch
from benchmarks.results import read_results
from benchmarks.rounding import RoundedProducts, rounded
from tests.tables import table
from tests.torch_twin import CondenseNetTwin

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@pytest.fixture(scope="module")
def training(small: str) -> Problem:
    return Problem("training", small, images=2)


@pytest.fixture(scope="module")
def inference(small: str) -> Problem:
    return Problem("condensed", small, images=2)


def found_by(change: Callable[[CondenseNetTwin], object], problem: Problem, monkeypatch: pytest.MonkeyPatch) -> Results:
    """The results in float32 of a network that was changed."""

    def changed(problem: Problem) -> CondenseNetTwin:
        twin = copy.deepcopy(problem.twin)
        change(twin)
        return twin

    assert problem.expected  # computed now, of the unchanged network
    monkeypatch.setattr(Problem, "twin_copy", changed)
    return in_torch(problem, "cpu")


def permute_inputs(twin: CondenseNetTwin) -> None:
    """As a layer that gathers the wrong channels."""
    weight = [m for m in twin.modules() if isinstance(m, nn.Conv2d)][2].weight
    weight.data = weight.data.roll(1, dims=1)


def scale_gradients(twin: CondenseNetTwin) -> None:
    for weight in twin.parameters():
        weight.register_hook(lambda gradient: 2 * gradient)


def scale_one_gradient(twin: CondenseNetTwin) -> None:
    next(twin.features["norm_last"].parameters()).register_hook(lambda gradient: 1.1 * gradient)


def set_momentum(twin: CondenseNetTwin) -> None:
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01


def set_epsilon(twin: CondenseNetTwin) -> None:
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3


def silence(twin: CondenseNetTwin) -> None:
    for weight in twin.classifier.parameters():
        weight.data.zero_()


TRAINED_WRONG: dict[str, tuple[Callable[[CondenseNetTwin], object], str, list[Precision]]] = {
    "a layer reads other channels": (permute_inputs, "losses", ["highest", "default"]),
    "all gradients are doubled": (scale_gradients, "gradients", ["highest", "default", "bfloat16"]),
    "one gradient is a tenth too large": (scale_one_gradient, "gradients", ["highest"]),
    "another momentum of statistics": (set_momentum, "statistics", ["highest", "default", "bfloat16"]),
    "another epsilon": (set_epsilon, "losses", ["highest"]),
}


@table("change, quantity, precisions", TRAINED_WRONG)
def test_wrong_training_is_refused(
    change: Callable[[CondenseNetTwin], object],
    quantity: str,
    precisions: list[Precision],
    training: Problem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = found_by(change, training, monkeypatch)
    for precision in precisions:
        assert differences(found, training.expected)[quantity] > TOLERANCE[precision][quantity]
        with pytest.raises(DifferentResults, match=rf"\({precision}\) differ by"):
            check(found, training.expected, precision)


@table("change", {"all logits are zero": silence, "a layer reads other channels": permute_inputs})
def test_wrong_logits_are_refused(
    change: Callable[[CondenseNetTwin], object], inference: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = found_by(change, inference, monkeypatch)
    for precision in PRECISIONS:
        with pytest.raises(DifferentResults, match="logits"):
            check(found, inference.expected, precision)


def test_logits_of_the_first_images_suffice(inference: Problem) -> None:
    expected = inference.expected["logits"][""]
    assert check(logits_of(expected[:1]), inference.expected, "highest") == {"logits": 0.0}
    for wrong in (expected[:1] * np.nan, expected[:1, :-1]):
        with pytest.raises(DifferentResults, match="logits"):
            check(logits_of(wrong), inference.expected, "bfloat16")


def test_rounding() -> None:
    """As PyTorch rounds to bfloat16; to TF32, whose numbers next to 1 are 2⁻¹⁰ apart, ties go to even ones."""
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded(x, 7), x.bfloat16().float())
    step = 2.0**-10
    ties = torch.tensor([1 + 0.5 * step, 1 + 1.5 * step, -1 - 0.49 * step, 1 - 0.3 * step])
    assert rounded(ties, 10).tolist() == [1.0, 1 + 2 * step, -1.0, 1 - 0.5 * step]


def test_products_are_rounded_forward_and_backward() -> None:
    a, b = (torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    exact, weight = a.bfloat16().float() @ b.bfloat16().float(), b.clone().requires_grad_()
    with RoundedProducts("bfloat16"):
        product = a @ weight
        product.sum().backward()
    assert torch.equal(product, exact.bfloat16().float())
    torch.testing.assert_close(weight.grad, (a.bfloat16().float().T @ torch.ones(8, 8)).bfloat16().float())


def test_right_networks_in_all_precisions(small: str, tmp_path: Path) -> None:
    """The emulated rounding is far larger than that of float32, and is allowed."""
    flags = ["--models", small, "--images", "2", "--work", "condensed", "training", "--emulated"]
    assert parity.main([*flags, "--output", str(tmp_path)]) == 0
    (file,) = tmp_path.rglob("parity.json")
    highest, default, bfloat16 = (parity_differences(file, precision) for precision in PRECISIONS)
    assert set(highest) == {"logits", "losses", "gradients", "statistics", "gradient_scale"}
    written = file.read_text()
    assert parity.main([*flags, "--resume", "--output", str(tmp_path)]) == 0
    assert file.read_text() == written
    for quantity, difference in highest.items():
        assert 5 * difference < default[quantity] < bfloat16[quantity]


def parity_differences(file: Path, precision: Precision) -> dict[str, float]:
    entries = [e for e in read_results(file)["entries"] if e["precision"] == precision]
    return {quantity: value for entry in entries for quantity, value in entry["differences"].items()}
