"""`convert_torch_weights.py` and `main.py condense` with networks that have nothing to condense, at full size."""

from pathlib import Path

import pytest
import torch

from cdnv2_jax import load
from cdnv2_jax.networks.zoo import architecture_of
from tests.commands.shell import Shell
from tests.plain_models import random_twin
from tests.weights.official_files import assert_same_bits, save

CONVERT = "convert_torch_weights.py"


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("shufflenet_v2_x0_5", {"variant": "megvii"}),
        ("shufflenet_v2_x1_0", {"variant": "torchvision"}),
        ("mobilenet_v2_x1_0", {}),
    ],
)
def test_there_and_back(name: str, variant: dict[str, str], shell: Shell) -> None:
    twin = random_twin(architecture_of(name, overrides=variant))
    save(Path("theirs.pth"), twin.state_dict())
    printed = shell.succeeds(CONVERT, "--model", name, "--input", "theirs.pth", "--output", "ours")
    assert f"{name} (plain): ours" in printed
    assert load("ours").architecture == architecture_of(name, overrides=variant)
    shell.succeeds(CONVERT, "--model", name, "--input", "ours", "--output", "back.pth", "--to-torch")
    assert_same_bits(torch.load("back.pth")["state_dict"], twin.state_dict())


def test_nothing_to_condense(shell: Shell) -> None:
    name = "shufflenet_v2_x0_5"
    save(Path("theirs.pth"), random_twin(architecture_of(name)).state_dict())
    complaint = shell.refuses(CONVERT, "--model", name, "--input", "theirs.pth", "--output", "ours", "--condense")
    assert f"{name} has nothing to condense" in complaint
    arguments = ("condense", "--checkpoint", "theirs.pth", "--output", "ours", "--model", name)
    assert f"{name} has nothing to condense" in shell.refuses("main.py", *arguments)


def test_another_width(shell: Shell) -> None:
    save(Path("theirs.pth"), random_twin(architecture_of("shufflenet_v2_x0_5")).state_dict())
    complaint = shell.refuses(CONVERT, "--model", "shufflenet_v2_x1_0", "--input", "theirs.pth", "--output", "ours")
    assert "theirs.pth is not a shufflenet_v2_x1_0 with 1000 classes" in complaint and "misshapen" in complaint
