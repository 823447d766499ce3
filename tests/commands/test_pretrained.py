"""The trained networks that come with the package: found by name, and as accurate as their cards say."""

import re
from pathlib import Path

import pytest

import cdnv2_jax
from cdnv2_jax.errors import UserError
from cdnv2_jax.paths import as_path
from cdnv2_jax.pretrained import pretrained_files
from cdnv2_jax.weights.safetensors import read_metadata
from tests.commands.shell import Shell

NAMES = cdnv2_jax.list_pretrained()
FASHION = "cdnv2_fashion_mnist"
PICTURES = Path(__file__).parents[1] / "data" / "fashion_mnist_500"


@pytest.mark.parametrize("name", NAMES)
def test_card(name: str) -> None:
    """The card has the figures in the file's header, and its network, condensed, their size."""
    file = pretrained_files()[name]
    trained, card = read_metadata(file)["trained"], file.with_suffix(".md").read_text(encoding="utf-8")
    network = cdnv2_jax.load_pretrained(name)
    assert network.usage is not None and len(network.usage.class_names) == network.architecture.num_classes
    small = cdnv2_jax.condense(network)
    cost = cdnv2_jax.count_flops(small, network.usage.preparation.size)
    assert cost.params == trained["condensed"]["params"]
    for form in ("masked", "condensed"):
        accuracy, params = trained[form]["accuracy"], trained[form]["params"]
        assert re.search(rf"^\| {form} \| {accuracy:.2%} \|.* {params:,} \|$", card, re.MULTILINE)


def test_unknown_names() -> None:
    with pytest.raises(UserError, match=rf"no pretrained network 'cdnv2_fashion': did you mean '{FASHION}'"):
        cdnv2_jax.load_pretrained("cdnv2_fashion")
    with pytest.raises(UserError, match=r"no pretrained network '\.\./x': choose one of "):
        as_path("pretrained:../x")


def test_fashion_mnist(shell: Shell) -> None:
    """`eval` gets as many of the first 500 test images right as the training run did, masked and condensed."""
    right = read_metadata(pretrained_files()[FASHION])["trained"]["first_right"]["500"]
    shell.succeeds("main.py", "condense", "--checkpoint", f"pretrained:{FASHION}", "--output", "condensed")
    for network in (f"pretrained:{FASHION}", "condensed"):
        flags = ("--config", "fashion_mnist", f"--config.data.directory={PICTURES}", "--checkpoint", network)
        assert f"top-1 {right / 500:.4%} " in shell.succeeds("main.py", "eval", *flags)


@pytest.mark.slow  # compiles a training step of ten dense layers
def test_starting_point(shell: Shell) -> None:
    """A run may start from it; its classifier is kept, and it has passed all stages."""
    flags = ("--config", "fashion_mnist:smoke", f"--config.model.checkpoint=pretrained:{FASHION}")
    printed = shell.succeeds("main.py", "train", *flags, "--workdir", "run", "--config.data.batch_size=128")
    assert "the checkpoint's classifier is kept" in printed and "all 3 passed" in printed
