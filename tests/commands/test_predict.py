"""`main.py predict`: what it prints, with networks from everywhere, and how it ends."""

import io
import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.special import softmax

from cdnv2_jax import save
from cdnv2_jax.data.decode import decode
from cdnv2_jax.data.preparation import CIFAR10, ImagePreparation
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights.metadata import USAGE_KEY, Usage
from tests.commands.shell import Shell
from tests.data.image_files import write_noise
from tests.weights.networks import network
from tests.weights.official_files import twin_in_form

USAGE = Usage(ImagePreparation(16, "centre", "bilinear", *CIFAR10), ("cat", "dog", "eel"))
ALBUM = ["album/a/0.png", "album/a/1.png", "album/b/0.png"]


@pytest.fixture
def here(shell: Shell) -> Shell:
    """A network and three images."""
    save("network", network("condensed"), metadata={USAGE_KEY: USAGE.to_json()})
    write_noise(Path("album"), ["a"], 2)
    write_noise(Path("album"), ["b"], 1, seed=1)
    return shell


def probabilities(path: str) -> np.ndarray:
    image = USAGE.preparation(decode(Path(path).read_bytes(), path))
    return softmax(np.asarray(network("condensed")(jnp.asarray(image[None]))[0], np.float64))


@pytest.mark.parametrize("exported", ["", "onnx", "stablehlo", "safetensors"])
def test_json(exported: str, here: Shell) -> None:
    """The same whatever the network is read from."""
    checkpoint = f"it.{exported}" if exported else "network"
    if exported:
        here.succeeds("main.py", "export", "--checkpoint", "network", "--format", exported, "--output", checkpoint)
    printed = here.succeeds("main.py", "predict", "--checkpoint", checkpoint, "--json", "--top", "2", "album")
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [line["image"] for line in lines] == ALBUM
    for line in lines:
        expected = probabilities(line["image"])
        assert [one["label"] for one in line["classes"]] == np.argsort(-expected)[:2].tolist()
        for one in line["classes"]:
            assert one["name"] == USAGE.class_names[one["label"]]
            assert one["probability"] == pytest.approx(expected[one["label"]], abs=1e-5)


def test_text(here: Shell) -> None:
    Path("names.txt").write_text("Katze\nHund\n\nAal\n")
    arguments = ("--checkpoint", "network", "--class-names", "names.txt")
    printed = here.succeeds("main.py", "predict", *arguments, ALBUM[2], ALBUM[0])
    expected = []
    for path in (ALBUM[2], ALBUM[0]):
        found = probabilities(path)
        names = zip(("Katze", "Hund", "Aal"), found, strict=True)
        expected += [path, *(f"{share:8.2%}  {name}" for name, share in sorted(names, key=lambda one: -one[1]))]
    assert printed.splitlines() == expected


def test_a_list_on_standard_input(here: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{ALBUM[1]}\n\n{ALBUM[2]}\n"))
    printed = here.succeeds("main.py", "predict", "--checkpoint", "network", "--json", ALBUM[0], "-")
    assert [json.loads(line)["image"] for line in printed.splitlines()] == ALBUM


def test_unreadable_images(here: Shell) -> None:
    """The others are printed; each that cannot be read gets a line; the status tells."""
    Path("broken.png").write_bytes(b"")
    outcome = here.run(
        "main.py", "predict", "--checkpoint", "network", "--json", "broken.png", ALBUM[0], "missing.png", ALBUM[1]
    )
    assert outcome.status == 2
    assert [json.loads(line)["image"] for line in outcome.out.splitlines()] == ALBUM[:2]
    first, second = outcome.err.splitlines()
    assert first.startswith("main.py predict: broken.png cannot be read as an image")
    assert second.startswith("main.py predict: missing.png cannot be read as an image (No such file or directory)")


def test_choice_of_weights(shell: Shell) -> None:
    """Which weights were taken is said, but not where the predictions are."""
    state = twin_in_form(architecture_of("condensenet_50"), 0).state_dict()
    torch.save({"state_dict": state, "state_dict_ema": state, "arch": "condensenet_50"}, "file.pth")
    for weights, taken in {"auto": "EMA weights (state_dict_ema)", "model": "live weights (state_dict)"}.items():
        arguments = ("--checkpoint", "file.pth", "--weights", weights, "--json", "missing.png")
        outcome = shell.run("main.py", "predict", *arguments)
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.startswith(f"weights: {taken}; the file also holds state_dict")
    arguments = ("--checkpoint", "file.pth", "--weights", "ema", "--class-names", "missing", "missing.png")
    assert "--class-names missing" in shell.refuses("main.py", "predict", *arguments)


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no checkpoint": (("--checkpoint", "missing", "album"), "missing: no such file or directory"),
    "no exported file": (("--checkpoint", "missing.onnx", "album"), "missing.onnx: no such file"),
    "not exported by us": (("--checkpoint", "other.onnx", "album"), "other.onnx is not an ONNX file"),
    "no StableHLO": (("--checkpoint", "other.stablehlo", "album"), "other.stablehlo.json, which belongs to"),
    "no safetensors": (("--checkpoint", "other.safetensors", "album"), "is not a complete safetensors file"),
    "no image": (("--checkpoint", "network"), "required: IMAGE"),
    "one that is none": (("--checkpoint", "network", "network/nothing.png"), "nothing.png cannot be read as an image"),
    "a folder without images": (("--checkpoint", "network", "network"), "network holds no images"),
    "none of the best": (("--checkpoint", "network", "--top", "0", "album"), "must be an integer >= 1"),
    "nothing at once": (("--checkpoint", "network", "--batch-size", "0", "album"), "must be an integer >= 1"),
}


@pytest.mark.parametrize(("arguments", "complaint"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(arguments: tuple[str, ...], complaint: str, here: Shell) -> None:
    for ending in ("onnx", "stablehlo", "safetensors"):
        Path(f"other.{ending}").write_text("nothing of the kind")
    assert complaint in here.refuses("main.py", "predict", *arguments)
