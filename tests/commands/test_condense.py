"""`main.py condense`, of our own checkpoints and of official files."""

from pathlib import Path

import pytest

from cdnv2_jax import condense, load, save
from cdnv2_jax.data.preparation import CIFAR10, ImagePreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights.open import open_network
from tests.commands.shell import Shell
from tests.weights.networks import assert_same_network, network, used
from tests.weights.official_files import save as save_official
from tests.weights.official_files import training_file, twin_in_form


def test_own_checkpoint(shell: Shell) -> None:
    pruned = network("pruned")
    usage = Usage(ImagePreparation(16, "whole", "bilinear", *CIFAR10), ["cat", "dog", "fox"])
    save("pruned", used(pruned, usage))
    printed = shell.succeeds("main.py", "condense", "--checkpoint", "pruned", "--output", "new/condensed")
    assert "cdnv2_cifar_110 condensed: new/condensed" in printed
    assert_same_network(load("new/condensed"), condense(pruned))
    assert open_network(Path("new/condensed")).network.usage == usage


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fully pruned network of the registry as the official training script saves it, called as that calls it."""
    twin = twin_in_form(architecture_of("condensenet_50"), 3)
    path = tmp_path_factory.mktemp("official") / "model.pth.tar"
    return save_official(path, training_file(twin, ema=twin, arch="condensenet.condensenet_50"))


@pytest.mark.parametrize("halved", [False, True])
def test_official_file_says_which_model_it_holds(halved: bool, official: Path, shell: Shell) -> None:
    arguments = ("--checkpoint", official, "--output", "condensed", *(["--halve-classifier"] if halved else []))
    printed = shell.succeeds("main.py", "condense", *arguments)
    assert "weights: EMA weights (state_dict_ema); the file also holds state_dict" in printed
    condensed = load("condensed")
    assert condensed.name == "condensenet_50"
    assert (condensed.form.condensed, condensed.form.halved_classifier) == (True, halved)
    # What images it was trained on, the file does not say.
    assert condensed.usage is None


def test_official_file_does_not_say(official: Path, shell: Shell) -> None:
    twin = twin_in_form(architecture_of("condensenet_50"), 0)
    save_official(Path("twin.pth.tar"), twin.state_dict())
    complaint = shell.refuses("main.py", "condense", "--checkpoint", "twin.pth.tar", "--output", "condensed")
    assert "twin.pth.tar does not say which model it holds: add --model" in complaint


def test_unknown_model(official: Path, shell: Shell) -> None:
    arguments = ("--checkpoint", official, "--output", "condensed", "--model", "condensnet_50")
    assert "did you mean 'condensenet_50'" in shell.refuses("main.py", "condense", *arguments)


def test_wrong_model(official: Path, shell: Shell) -> None:
    arguments = ("--checkpoint", official, "--output", "condensed", "--model", "condensenet_74")
    complaint = shell.refuses("main.py", "condense", *arguments)
    assert "is not a condensenet_74 with 10 classes" in complaint and "missing" in complaint


def test_wrong_number_of_classes(official: Path, shell: Shell) -> None:
    arguments = ("--checkpoint", official, "--output", "condensed", "--num-classes", "100")
    complaint = shell.refuses("main.py", "condense", *arguments)
    assert "is not a condensenet_50 with 100 classes" in complaint


@pytest.mark.parametrize("classes", ["0", "-1"])
def test_impossible_number_of_classes(classes: str, official: Path, shell: Shell) -> None:
    arguments = ("--checkpoint", official, "--output", "condensed", "--num-classes", classes)
    assert f"num_classes must be an integer in [1, 1000000], got {classes}" in shell.refuses(
        "main.py", "condense", *arguments
    )


@pytest.mark.parametrize("form", ["dense", "partly pruned"])
def test_not_pruned(form: str, shell: Shell) -> None:
    save("masked", network(form))
    complaint = shell.refuses("main.py", "condense", "--checkpoint", "masked", "--output", "condensed")
    assert "blocks/0/0/lgc: group 0 has" in complaint
    assert "prune the network to its last stage first" in complaint


def test_condensed_already(shell: Shell) -> None:
    save("condensed", network("condensed"))
    complaint = shell.refuses("main.py", "condense", "--checkpoint", "condensed", "--output", "again")
    assert "is condensed already" in complaint


def test_halving_a_v2(shell: Shell) -> None:
    save("pruned", network("pruned"))
    arguments = ("--checkpoint", "pruned", "--output", "condensed", "--halve-classifier")
    assert "CondenseNetV2 keeps all inputs" in shell.refuses("main.py", "condense", *arguments)


def test_no_checkpoint(shell: Shell) -> None:
    complaint = shell.refuses("main.py", "condense", "--checkpoint", "missing", "--output", "condensed")
    assert "missing: no such file or directory" in complaint


def test_existing_output(shell: Shell) -> None:
    save("pruned", network("pruned"))
    save("other", network("dense"))
    complaint = shell.refuses("main.py", "condense", "--checkpoint", "pruned", "--output", "other")
    assert "other exists" in complaint and "--overwrite" in complaint
    shell.succeeds("main.py", "condense", "--checkpoint", "pruned", "--output", "other", "--overwrite")
    assert load("other").form.condensed


def test_output_over_the_input(shell: Shell) -> None:
    """Allowed when asked for: the new one is complete before the old one goes."""
    pruned = network("pruned")
    save("network", pruned)
    shell.succeeds("main.py", "condense", "--checkpoint", "network", "--output", "network", "--overwrite")
    assert_same_network(load("network"), condense(pruned))


def test_overwriting_spares_what_is_no_checkpoint(shell: Shell) -> None:
    save("pruned", network("pruned"))
    Path("home").mkdir()
    Path("home/thesis.tex").write_text("mine")
    arguments = ("--checkpoint", "pruned", "--output", "home", "--overwrite")
    assert "home exists and is not a checkpoint" in shell.refuses("main.py", "condense", *arguments)
