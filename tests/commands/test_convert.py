"""`convert_torch_weights.py`: what it refuses. What it converts: `test_official_weights.py`."""

import json
from pathlib import Path

import pytest
import torch

from cdnv2_jax import load, save, to_torch_state_dict
from cdnv2_jax.commands import convert
from cdnv2_jax.data.preparation import CIFAR10, ImagePreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.networks.network import Form
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights.checkpoint import USAGE_KEY
from cdnv2_jax.weights.open import open_network
from cdnv2_jax.weights.safetensors import Layout, save_safetensors
from tests.commands.shell import Shell
from tests.torch_twin import CondenseNetTwin, converted
from tests.weights.networks import assert_same_network, network, used
from tests.weights.official_files import assert_same_bits, training_file, twin_in_form
from tests.weights.official_files import save as save_official

CONVERT = "convert_torch_weights.py"
V1 = ("--model", "condensenet_50", "--input")


@pytest.fixture(scope="module")
def twin() -> CondenseNetTwin:
    return twin_in_form(architecture_of("condensenet_50"), 3)


@pytest.fixture(scope="module")
def official(twin: CondenseNetTwin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fully pruned network as the official training script saves it, with an average that is another network's."""
    average = twin_in_form(architecture_of("condensenet_50"), 1, "average")
    path = tmp_path_factory.mktemp("official") / "model.pth.tar"
    return save_official(path, training_file(twin, ema=average, arch="condensenet_50"))


@pytest.fixture(scope="module")
def pruned(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pruned network of the official file, converted."""
    path = tmp_path_factory.mktemp("ours") / "pruned"
    assert convert.main([*V1, str(official), "--output", str(path), "--weights", "model"]) == 0
    return path


def test_choice_of_weights(twin: CondenseNetTwin, official: Path, pruned: Path, shell: Shell) -> None:
    shell.succeeds(CONVERT, *V1, pruned, "--output", "back.pth.tar", "--to-torch")
    assert_same_bits(torch.load("back.pth.tar")["state_dict"], twin.state_dict())
    # The average is preferred, and it is not pruned.
    assert "prune the network" in shell.refuses(CONVERT, *V1, official, "--output", "ours", "--condense")


def test_classes_of_the_file(shell: Shell) -> None:
    """They are the file's, and a number that contradicts it is refused with the right one."""
    twin = twin_in_form(architecture_of("condensenet_50", 7), 0)
    save_official(Path("seven.pth"), {"model": twin.state_dict()})
    complaint = shell.refuses(CONVERT, *V1, "seven.pth", "--output", "ours", "--num-classes", "10")
    assert complaint.endswith(
        "its classifier has 7 classes: give --num-classes 7, or num_classes=7 in Python and configs\n"
    )
    printed = shell.succeeds(CONVERT, *V1, "seven.pth", "--output", "ours")
    assert printed.startswith("classes: 7, as in the file (a condensenet_50 usually has 10)\n")
    assert_same_bits(to_torch_state_dict(load("ours")), twin.state_dict())


@pytest.mark.parametrize("layout", ["ours", "official"])
def test_our_safetensors(layout: Layout, shell: Shell) -> None:
    """Class names and preprocessing stay with the network."""
    usage = Usage(ImagePreparation(16, "centre", "bilinear", *CIFAR10), ("cat", "dog", "eel"))
    save_safetensors(Path("it.safetensors"), used(network("halved"), usage), {}, layout)
    shell.succeeds(CONVERT, *V1, "it.safetensors", "--output", "ours")
    opened = open_network(Path("ours"))
    assert_same_network(opened.network, network("halved"))
    expected = {"converted_from": "it.safetensors", "weights": "auto", USAGE_KEY: usage.to_json()}
    assert json.dumps(opened.metadata, sort_keys=True) == json.dumps(expected, sort_keys=True)
    other = ("--model", "cdnv2_a", "--input", "it.safetensors", "--output", "other")
    assert "holds a condensenet_50: give --model condensenet_50" in shell.refuses(CONVERT, *other)
    complaint = shell.refuses(CONVERT, *V1, "it.safetensors", "--output", "other", "--num-classes", "10")
    assert "has 3 classes: leave out --num-classes 10" in complaint


def test_long_names_in_a_short_line(shell: Shell) -> None:
    """Of keys, paths and control characters in them; what to do is still there."""
    state = twin_in_form(architecture_of("condensenet_50"), 0).state_dict()
    names = ["x" * 10**5, "\x1b[31mred\x1b]0;title\x07", *(f"{'layer' * 30}.{n}" for n in range(300))]
    directory = Path(*["directory" * 20] * 4)
    directory.mkdir(parents=True)
    save_official(directory / "file.pth", {**state, **{name: torch.zeros(1) for name in names}})
    complaint = shell.refuses(CONVERT, *V1, directory / "file.pth", "--output", "ours")
    assert len(complaint) < 400
    assert complaint.endswith("give the model and the sizes that the file was saved from\n")
    assert complaint.rstrip("\n").isprintable()


def test_condensing_on_the_way(official: Path, shell: Shell) -> None:
    printed = shell.succeeds(CONVERT, *V1, official, "--output", "ours", "--weights", "model", "--condense")
    assert printed.startswith("weights: live weights (state_dict); the file also holds state_dict_ema\n")
    assert "condensenet_50 (condensed): ours" in printed
    assert load("ours").form == Form(condensed=True)


def test_condensing_on_the_way_back(twin: CondenseNetTwin, pruned: Path, shell: Shell) -> None:
    """The official conversion's result, without the official code."""
    flags = ("--to-torch", "--condense", "--halve-classifier")
    shell.succeeds(CONVERT, *V1, pruned, "--output", "converted.pth.tar", *flags)
    assert_same_bits(torch.load("converted.pth.tar")["state_dict"], converted(twin).state_dict())
    complaint = shell.refuses(CONVERT, *V1, pruned, "--output", "other.pth.tar", "--to-torch", "--condense")
    assert "half of its classifier's inputs" in complaint


@pytest.mark.parametrize("direction", [(), ("--to-torch",)])
def test_unknown_model(direction: tuple[str, ...], official: Path, shell: Shell) -> None:
    arguments = ("--model", "condensenet_5", "--input", official, "--output", "ours", *direction)
    assert "no model is called 'condensenet_5': did you mean 'condensenet_50'" in shell.refuses(CONVERT, *arguments)


def test_wrong_model(official: Path, shell: Shell) -> None:
    arguments = ("--model", "cdnv2_a", "--input", official, "--output", "ours")
    complaint = shell.refuses(CONVERT, *arguments)
    assert "is not a cdnv2_a with 10 classes" in complaint
    assert complaint.endswith("the file says that it holds a condensenet_50: give --model condensenet_50\n")


def test_wrong_model_on_the_way_back(shell: Shell) -> None:
    save("ours", network("pruned"))
    complaint = shell.refuses(CONVERT, *V1, "ours", "--output", "back.pth.tar", "--to-torch")
    assert "ours holds a cdnv2_cifar_110, not a condensenet_50" in complaint


@pytest.mark.parametrize("direction", [(), ("--to-torch",)])
def test_no_input(direction: tuple[str, ...], shell: Shell) -> None:
    complaint = shell.refuses(CONVERT, *V1, "missing", "--output", "result", *direction)
    assert "missing: no such" in complaint


def test_input_of_the_other_direction(official: Path, shell: Shell) -> None:
    save("ours", network("halved"))
    assert "ours is a directory" in shell.refuses(CONVERT, *V1, "ours", "--output", "result")
    complaint = shell.refuses(CONVERT, *V1, official, "--output", "result", "--to-torch")
    assert "is not a checkpoint of this project" in complaint


@pytest.mark.parametrize("direction", [(), ("--to-torch",)])
@pytest.mark.parametrize("occupant", ["file", "directory"])
def test_existing_output(occupant: str, direction: tuple[str, ...], official: Path, shell: Shell) -> None:
    save("ours", network("halved"))
    Path("file").write_text("mine")
    Path("directory").mkdir()
    source = "ours" if direction else official
    complaint = shell.refuses(CONVERT, *V1, source, "--output", occupant, *direction)
    assert f"{occupant} exists" in complaint
    # A directory where a file should go is no result to replace: --overwrite would not help.
    assert ("--overwrite" in complaint) == (occupant == "file" or not direction)


def test_overwriting(twin: CondenseNetTwin, official: Path, shell: Shell) -> None:
    save("ours", network("dense"))
    Path("back.pth.tar").write_text("old")
    shell.succeeds(CONVERT, *V1, official, "--output", "ours", "--weights", "model", "--overwrite")
    shell.succeeds(CONVERT, *V1, "ours", "--output", "back.pth.tar", "--to-torch", "--overwrite")
    assert_same_bits(torch.load("back.pth.tar")["state_dict"], twin.state_dict())
    assert {entry.name for entry in shell.directory.iterdir()} == {"ours", "back.pth.tar"}


@pytest.mark.parametrize("output", ["precious", "."])
@pytest.mark.parametrize("direction", [(), ("--to-torch",)])
def test_overwriting_spares_directories(output: str, direction: tuple[str, ...], official: Path, shell: Shell) -> None:
    """`--overwrite` is for an earlier conversion, not for somebody's directory and all in it."""
    save("ours", network("halved"))
    Path("precious").mkdir()
    Path("precious/thesis.tex").write_text("mine")
    source = "ours" if direction else official
    shell.refuses(CONVERT, *V1, source, "--output", output, "--overwrite", *direction)


@pytest.mark.parametrize("direction", [(), ("--to-torch",)])
def test_output_below_a_file(direction: tuple[str, ...], official: Path, shell: Shell) -> None:
    save("ours", network("halved"))
    Path("file").write_text("mine")
    source = "ours" if direction else official
    complaint = shell.refuses(CONVERT, *V1, source, "--output", "file/result", *direction)
    assert "file/result cannot be written" in complaint


def test_output_in_a_new_directory(shell: Shell) -> None:
    save("ours", network("halved"))
    shell.succeeds(CONVERT, *V1, "ours", "--output", "new/dir/back.pth.tar", "--to-torch")
    assert "state_dict" in torch.load("new/dir/back.pth.tar")


def test_disk_is_full(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch reports it by a RuntimeError of its own."""
    save("ours", network("halved"))

    def fail(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 21824 vs 21720")

    monkeypatch.setattr(torch, "save", fail)
    complaint = shell.refuses(CONVERT, *V1, "ours", "--output", "back.pth.tar", "--to-torch")
    assert "back.pth.tar cannot be written" in complaint


def test_condensing_twice(shell: Shell) -> None:
    save("ours", network("halved"))
    complaint = shell.refuses(CONVERT, *V1, "ours", "--output", "back.pth.tar", "--to-torch", "--condense")
    assert "is condensed already" in complaint


def test_halving_without_condensing(official: Path, shell: Shell) -> None:
    """A flag that would have no effect is a misunderstanding."""
    complaint = shell.refuses(CONVERT, *V1, official, "--output", "ours", "--halve-classifier")
    assert "--condense" in complaint
