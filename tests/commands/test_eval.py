"""`main.py eval`: its output file, and all that it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cdnv2_jax import load_torch_checkpoint, save
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights.torch_file import Weights
from tests.commands.shell import DIGITS, TINY, Shell
from tests.data.image_files import write_images
from tests.weights.networks import contents, network
from tests.weights.official_files import save as save_official
from tests.weights.official_files import training_file, twin_in_form

CLASSES = 3
OURS = ("--checkpoint", "ours")
ON_IMAGES = (
    *("--config", DIGITS, "--config.data.source=image_folder", f"--config.model.num_classes={CLASSES}"),
    "--config.data.crop=random_resized",
)


@pytest.fixture
def ours(shell: Shell) -> Path:
    """A network of three classes in our own format."""
    save("ours", network("pruned"))
    return Path("ours")


@pytest.fixture
def images(shell: Shell) -> str:
    """Three images of three classes, as an override."""
    write_images(Path("images"), {"a": ["x.png"], "b": ["y.png"], "c": ["z.png"]})
    return "--config.data.directory=images"


def test_image_folder(ours: Path, images: str, shell: Shell) -> None:
    printed = shell.succeeds("main.py", "eval", *ON_IMAGES, images, *OURS, "--output", "logits.npz")
    assert "cdnv2_cifar_110 (masked), 3 images of image_folder" in printed
    assert "top-5 100.0000%" in printed
    with np.load("logits.npz") as saved:
        assert saved["logits"].shape == (3, CLASSES)
        np.testing.assert_array_equal(saved["labels"], [0, 1, 2])
    # Overwriting replaces that file and nothing else.
    before = contents(shell.directory)
    del before["logits.npz"]
    Path("logits.npz").write_text("old")
    shell.succeeds("main.py", "eval", *ON_IMAGES, images, *OURS, "--output", "logits.npz", "--overwrite")
    with np.load("logits.npz") as saved:
        assert saved["logits"].shape == (3, CLASSES)
    after = contents(shell.directory)
    del after["logits.npz"]
    assert after == before


def test_nothing_is_written_unasked(ours: Path, images: str, shell: Shell) -> None:
    before = contents(shell.directory)
    shell.succeeds("main.py", "eval", *ON_IMAGES, images, *OURS)
    assert contents(shell.directory) == before


def test_existing_output(ours: Path, images: str, shell: Shell) -> None:
    Path("logits.npz").write_text("mine")
    complaint = shell.refuses("main.py", "eval", *ON_IMAGES, images, *OURS, "--output", "logits.npz")
    assert "logits.npz exists" in complaint and "--overwrite" in complaint


@pytest.mark.parametrize("output", ["precious", "."])
def test_overwriting_spares_directories(output: str, ours: Path, images: str, shell: Shell) -> None:
    """`--overwrite` is for the file of an earlier evaluation, not for a directory and all in it."""
    Path("precious").mkdir()
    Path("precious/thesis.tex").write_text("mine")
    shell.refuses("main.py", "eval", *ON_IMAGES, images, *OURS, "--output", output, "--overwrite")


def test_output_below_a_file(ours: Path, images: str, shell: Shell) -> None:
    Path("file").write_text("mine")
    complaint = shell.refuses("main.py", "eval", *ON_IMAGES, images, *OURS, "--output", "file/logits.npz")
    assert "file/logits.npz" in complaint


def test_no_checkpoint(shell: Shell) -> None:
    complaint = shell.refuses("main.py", "eval", "--config", DIGITS, "--checkpoint", "missing")
    assert "missing: no such file or directory" in complaint


def test_directory_that_is_no_checkpoint(images: str, shell: Shell) -> None:
    complaint = shell.refuses("main.py", "eval", "--config", DIGITS, "--checkpoint", "images")
    assert "images is not a checkpoint of this project" in complaint


def test_file_that_is_no_checkpoint(shell: Shell) -> None:
    Path("notes.txt").write_text("mine")
    assert "notes.txt is not a" in shell.refuses("main.py", "eval", "--config", DIGITS, "--checkpoint", "notes.txt")


def test_other_number_of_classes(ours: Path, shell: Shell) -> None:
    complaint = shell.refuses("main.py", "eval", "--config", DIGITS, *OURS)
    assert "ours tells 3 classes apart" in complaint and "10" in complaint


def test_other_model(images: str, shell: Shell) -> None:
    """Its images would be prepared as for the config's model, and its figures read as that model's."""
    save("v1", network("halved"))
    complaint = shell.refuses("main.py", "eval", *ON_IMAGES, images, "--checkpoint", "v1")
    assert "v1 holds a condensenet_50" in complaint and "cdnv2_cifar_110" in complaint


def test_more_folders_than_classes(ours: Path, shell: Shell) -> None:
    write_images(Path("images"), {name: ["x.png"] for name in "abcd"})
    complaint = shell.refuses("main.py", "eval", *ON_IMAGES, "--config.data.directory=images", *OURS)
    assert "images has 4 classes, the network tells 3 apart" in complaint


@pytest.mark.parametrize("directory", ["missing", "", "file"])
def test_no_image_folder(directory: str, ours: Path, shell: Shell) -> None:
    Path("file").write_text("mine")
    complaint = shell.refuses("main.py", "eval", *ON_IMAGES, f"--config.data.directory={directory}", *OURS)
    assert (f"{directory} is no directory: put images at" if directory else "data.directory is empty") in complaint


def test_empty_image_folder(ours: Path, shell: Shell) -> None:
    Path("images/a").mkdir(parents=True)
    complaint = shell.refuses("main.py", "eval", *ON_IMAGES, "--config.data.directory=images", *OURS)
    assert "images holds no images" in complaint


def test_broken_image(ours: Path, images: str, shell: Shell) -> None:
    whole = Path("images/b/y.png").read_bytes()
    Path("images/b/y.png").write_bytes(whole[: len(whole) // 2])
    complaint = shell.refuses("main.py", "eval", *ON_IMAGES, images, *OURS, "--output", "logits.npz")
    assert "images/b/y.png cannot be read as an image" in complaint


def test_images_too_small_for_the_network(images: str, shell: Shell) -> None:
    save("deep", network("dense", stages=(1, 1, 1, 1), growth=(8, 8, 8, 8)))
    complaint = shell.refuses(
        "main.py", "eval", *ON_IMAGES, images, "--checkpoint", "deep", "--config.data.image_size=7"
    )
    assert "7×7 image is too small" in complaint


TINY_SIZES = {"stages": (1,), "growth": (8,), "groups": 4, "condensation_factor": 4, "squeeze_excite_from": 2}
"""The network that the digits' config with `TINY` describes."""


@pytest.fixture
def official(shell: Shell) -> Path:
    """That network as the official training script saves it, its average being another's than its live weights."""
    architecture = architecture_of("cdnv2_cifar_110", 10, TINY_SIZES)
    live, averaged = (twin_in_form(architecture, 3, salt) for salt in ("live weights", "averaged weights"))
    return save_official(Path("twin.pth.tar"), training_file(live, ema=averaged, arch="cdnv2_cifar_110"))


@pytest.mark.parametrize("weights", ["auto", "model"])
def test_official_file_needs_no_conversion(weights: Weights, official: Path, shell: Shell) -> None:
    evaluation = ("main.py", "eval", "--config", DIGITS, *TINY)
    shell.succeeds(*evaluation, "--checkpoint", official, "--weights", weights, "--output", "theirs.npz")
    save("ours", load_torch_checkpoint(official, "cdnv2_cifar_110", weights=weights, **TINY_SIZES))
    shell.succeeds(*evaluation, "--checkpoint", "ours", "--output", "ours.npz")
    with np.load("theirs.npz") as theirs, np.load("ours.npz") as ours:
        assert theirs["logits"].shape == (360, 10)
        np.testing.assert_array_equal(theirs["logits"], ours["logits"])


def test_official_file_of_another_network(official: Path, shell: Shell) -> None:
    complaint = shell.refuses("main.py", "eval", "--config", DIGITS, "--checkpoint", official)
    assert "twin.pth.tar is not a cdnv2_cifar_110 with 10 classes" in complaint
    assert "missing" in complaint and "misshapen" in complaint


def test_average_that_is_missing(official: Path, shell: Shell) -> None:
    save_official(Path("bare.pth"), torch.load(official, weights_only=False)["state_dict"])
    arguments = ("--config", DIGITS, "--checkpoint", "bare.pth", "--weights", "ema", *TINY)
    assert "bare.pth has no EMA state_dict" in shell.refuses("main.py", "eval", *arguments)
