"""`main.py export`, of networks of every kind; its mistakes."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import UserError, condense, create_model, save
from cdnv2_jax.data.canvas import KEY as USAGE
from cdnv2_jax.export.classifier import FORMATS
from cdnv2_jax.networks.network import Network
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights.checkpoint import save_detector
from cdnv2_jax.weights.open import open_classifier
from cdnv2_jax.weights.safetensors import load_safetensors
from tests.commands.shell import Shell
from tests.export.detectors import CLASSES, PREPARATION, detector
from tests.weights.networks import assert_same_network, network
from tests.weights.official_files import save as save_official
from tests.weights.official_files import training_file, twin_in_form

REPORT = (
    r"run from the file on 8 photographs: same top-1 class for 100%, largest relative difference (0|\d(\.\d)?e-\d\d)\n"
)


@pytest.mark.parametrize("format", FORMATS)
def test_own_checkpoint(format: str, shell: Shell) -> None:
    save("network", network("pruned"))
    path = Path(f"out/small{FORMATS[format].suffix}")
    arguments = ("--checkpoint", "network", "--condense", "--format", format, "--output", path)
    printed = shell.succeeds("main.py", "export", *arguments)
    first = f"cdnv2_cifar_110 (condensed) as {FORMATS[format].title}: {path}, {path.stat().st_size:,} bytes\n"
    assert re.fullmatch(re.escape(first) + REPORT, printed)
    complaint = shell.refuses("main.py", "export", *arguments)
    assert f"{path} exists" in complaint or f"{path}.json exists" in complaint
    if "safetensors" in format:
        shell.succeeds("main.py", "export", *arguments, "--overwrite")
        assert_same_network(load_safetensors(path), network("condensed"))


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fully pruned network of the registry as the official training script saves it."""
    twin = twin_in_form(architecture_of("condensenet_50"), 3)
    path = tmp_path_factory.mktemp("official") / "model.pth.tar"
    return save_official(path, training_file(twin, ema=twin, arch="condensenet.condensenet_50"))


def test_official_file(official: Path, shell: Shell) -> None:
    """Class names and another image size go with it."""
    Path("names.txt").write_text("\n".join(f"name {number}" for number in range(10)))
    arguments = ("--checkpoint", official, "--condense", "--format", "onnx", "--output", "it.onnx")
    printed = shell.succeeds("main.py", "export", *arguments, "--class-names", "names.txt", "--image-size", "40")
    assert "weights: EMA weights (state_dict_ema); the file also holds state_dict" in printed
    described = open_classifier(Path("it.onnx")).described
    assert (described.name, described.form, described.num_classes) == ("condensenet_50", "condensed", 10)
    assert (described.usage.preparation.size, described.usage.name_of(3)) == (40, "name 3")
    assert open_classifier(Path("it.onnx")).forward(np.zeros((3, 40, 40, 3), np.float32)).shape == (3, 10)


def test_halved_classifier(official: Path, shell: Shell) -> None:
    """The authors' form of a condensed CondenseNet (v1), which its whole form is not."""
    writing = ("--format", "safetensors-official", "--output", "it.safetensors")
    arguments = ("--checkpoint", official, "--condense", *writing)
    assert "halve_classifier" in shell.refuses("main.py", "export", *arguments)
    shell.succeeds("main.py", "export", *arguments, "--halve-classifier")
    assert load_safetensors("it.safetensors").form.halved_classifier
    halving = ("--format", "onnx", "--output", "it.onnx", "--halve-classifier")
    assert "add --condense" in shell.refuses("main.py", "export", "--checkpoint", official, *halving)


def test_from_safetensors(shell: Shell) -> None:
    """What was exported is a checkpoint: for `export` and for `condense`."""
    save("network", network("pruned"))
    export = ("export", "--format", "safetensors", "--output", "it.safetensors")
    shell.succeeds("main.py", *export, "--checkpoint", "network")
    again = ("--checkpoint", "it.safetensors", "--output", "it.stablehlo", "--format", "stablehlo", "--condense")
    assert "(condensed) as StableHLO" in shell.succeeds("main.py", "export", *again)
    shell.succeeds("main.py", "condense", "--checkpoint", "it.safetensors", "--output", "condensed")
    shell.succeeds(
        "main.py", "export", "--checkpoint", "condensed", "--format", "safetensors", "--output", "small.safetensors"
    )
    assert_same_network(load_safetensors("small.safetensors"), condense(network("pruned")))


def test_detector(shell: Shell) -> None:
    """Its canvas is the one it was trained with, or another; flags of classifiers are refused."""
    metadata = {USAGE: PREPARATION.to_json()}
    save_detector(Path("detector"), detector("retinanet"), CLASSES, metadata=metadata)
    arguments = ("export", "--checkpoint", "detector", "--output", "it.onnx", "--format", "onnx")
    printed = shell.succeeds("main.py", *arguments, "--canvas", "64x64")
    assert re.match(
        r"retinanet on cdnv2_a \(masked\) as ONNX: it.onnx, [\d,]+ bytes\nrun from the file on 2 ph", printed
    )
    with pytest.raises(UserError, match=r"it.onnx holds a detector, not a classifier"):
        open_classifier(Path("it.onnx"))
    refused = {"--image-size": "64", "--class-names": "it.onnx"}
    for flag in refused.items():
        assert "holds a detector" in shell.refuses("main.py", *arguments, "--overwrite", *flag)
    assert "a multiple of 32 pixels" in shell.refuses("main.py", *arguments, "--overwrite", "--canvas", "64x65")


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no checkpoint": (("--checkpoint", "missing"), "missing: no such file or directory"),
    "no format of ours": (("--format", "tflite"), "invalid choice: 'tflite'"),
    "another ending": (("--output", "network.pb"), "call it network.onnx"),
    "no directory to write to": (("--output", "file/it.onnx"), "file/it.onnx cannot be written"),
    "a directory": (("--output", "folder.onnx", "--overwrite"), "is a directory"),
    "not pruned": (("--condense",), "prune the network to its last stage first"),
    "no size": (("--image-size", "0"), "must be an integer >= 1"),
    "enormous size": (("--image-size", "100000"), "from 1 to 4096 pixels"),
    "no canvas": (("--canvas", "800"), "must be HEIGHTxWIDTH"),
    "canvas of a classifier": (("--canvas", "64x64"), "--canvas is for detectors"),
    "names that are not there": (("--class-names", "names"), "--class-names names cannot be read"),
    "too few names": (("--class-names", "one.txt"), "1 names for 3 classes"),
}


@pytest.mark.parametrize(("flags", "complaint"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(flags: tuple[str, ...], complaint: str, shell: Shell) -> None:
    save("network", network("dense"))
    Path("file").touch()
    Path("one.txt").write_text("cat\n")
    Path("folder.onnx").mkdir()
    usual = ("--checkpoint", "network", "--format", "onnx", "--output", "it.onnx")
    assert complaint in shell.refuses("main.py", "export", *usual, *flags)


def test_too_small_images(shell: Shell) -> None:
    save("network", _strided())
    for format in ("onnx", "stablehlo", "safetensors"):
        arguments = ("--format", format, "--output", f"it.{format}", "--image-size", "8")
        assert "too small" in shell.refuses("main.py", "export", "--checkpoint", "network", *arguments)


def _strided() -> Network:
    """A cdnv2_a with the fewest layers: it halves images five times."""
    return create_model("cdnv2_a", num_classes=3, stages=(1,) * 5, growth=(8,) * 5, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("format", "package"), [("onnx", "onnxruntime"), ("safetensors", "safetensors"), ("stablehlo", "flatbuffers")]
)
def test_missing_packages(format: str, package: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    save("network", network("dense"))
    monkeypatch.setitem(sys.modules, package, None)
    arguments = ("--checkpoint", "network", "--format", format, "--output", f"it.{format}")
    complaint = shell.refuses("main.py", "export", *arguments)
    assert f"this needs the package {package}: {sys.executable} -m pip install 'cdnv2-jax[export]'" in complaint
