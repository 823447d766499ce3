"""`main.py eval`: its output file, official files, and all that it refuses."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from flax import nnx

from cdnv2_jax import UserError, load_torch_checkpoint, save
from cdnv2_jax.data.preparation import CIFAR10, ImagePreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.export.verify import refuse_not_finite
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


def test_results_that_are_not_finite(images: str, shell: Shell) -> None:
    """Of a network whose weights are all finite: no command gives figures or files of it."""
    overflowing = nnx.clone(network("pruned"))
    for scale in (overflowing.norm_last.scale, overflowing.classifier.kernel):
        scale[...] *= 1e30
    save("ours", overflowing)
    files = ("--output", "logits.npz", "--per-class", "classes.csv")
    assert "ours returns NaN or infinity" in shell.refuses("main.py", "eval", *ON_IMAGES, images, *OURS, *files)
    with pytest.raises(UserError, match=r"ours returns NaN or infinity.*nothing was written"):
        refuse_not_finite(np.array([[0.0, np.inf]]), "ours")  # as export says it


def test_nothing_is_written_unasked(ours: Path, images: str, shell: Shell) -> None:
    before = contents(shell.directory)
    shell.succeeds("main.py", "eval", *ON_IMAGES, images, *OURS)
    assert contents(shell.directory) == before


@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_exported_programs(format: str, shell: Shell) -> None:
    """The figures of the checkpoint, of images prepared as the file says, in batches of which the last is not full."""
    model = nnx.clone(network("condensed"))
    model.usage = Usage(ImagePreparation(16, "whole", "bicubic", *CIFAR10), ("c", "a", "b"))
    save("ours", model)
    write_images(Path("images"), {"a": ["x.png", "y.png"], "b": ["y.png"], "c": ["z.png", "x.png"]})
    program = f"it.{format}"
    shell.succeeds("main.py", "export", "--checkpoint", "ours", "--format", format, "--output", program)
    on_images = (*ON_IMAGES, "--config.data.directory=images", "--config.data.eval_batch_size=2")
    printed, logits = {}, {}
    for checkpoint in ("ours", program):
        output = ("--output", f"{checkpoint}.npz", "--per-class", f"{checkpoint}.csv")
        printed[checkpoint] = shell.succeeds("main.py", "eval", *on_images, "--checkpoint", checkpoint, *output)
        with np.load(f"{checkpoint}.npz") as saved:
            logits[checkpoint] = saved["logits"]
    top1 = next(line for line in printed["ours"].splitlines() if line.startswith("top-1")).split("loss")[0]
    for line in (
        "cdnv2_cifar_110 (condensed), 5 images of image_folder",
        top1,
        "FLOPs, ",
        "data.interpolation bicubic",
    ):
        assert line in printed["ours"] and line in printed[program]
    assert logits[program].shape == (5, CLASSES)
    np.testing.assert_allclose(logits[program], logits["ours"], rtol=1e-4, atol=1e-4)
    assert Path("ours.csv").read_text() == Path(f"{program}.csv").read_text()
    evaluation = ("main.py", "eval", *on_images, "--checkpoint", program)
    assert "holds a cdnv2_cifar_110, the config" in shell.refuses(*evaluation, "--config.model.name=condensenet_50")
    assert "with no choice of weights" in shell.refuses(*evaluation, "--weights", "ema")


@pytest.fixture(scope="module")
def cluttered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with networks, images and files that some evaluation must refuse. To be copied."""
    directory = tmp_path_factory.mktemp("cluttered")
    sizes = {"stages": (1, 1, 1, 1), "growth": (8, 8, 8, 8)}
    for name, made in (("ours", network("pruned")), ("v1", network("halved")), ("deep", network("dense", **sizes))):
        save(directory / name, made)
    write_images(directory / "images", {name: [f"{name}.png"] for name in "abc"})
    write_images(directory / "four", {name: ["x.png"] for name in "abcd"})
    write_images(directory / "broken", {"a": ["x.png"], "b": ["y.png"], "c": ["z.png"]})
    broken = directory / "broken/b/y.png"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    for folder in ("empty/a", "precious"):
        (directory / folder).mkdir(parents=True)
    for file in ("notes.txt", "old.npz", "precious/thesis.tex"):
        (directory / file).write_text("mine")
    return directory


def _of(checkpoint: str, directory: str = "images", *more: str) -> tuple[str, ...]:
    return (*ON_IMAGES, f"--config.data.directory={directory}", "--checkpoint", checkpoint, *more)


REFUSED = [
    (("--config", DIGITS, "--checkpoint", "missing"), "missing: no such file or directory"),
    (("--config", DIGITS, "--checkpoint", "images"), "images is not a checkpoint of this project"),
    (("--config", DIGITS, "--checkpoint", "notes.txt"), "notes.txt is not a"),
    (("--config", DIGITS, *OURS), "ours on digits: 10 classes of images, 3 of the network"),
    # Its images would be prepared as for the config's model, and its metrics read as that model's.
    (_of("v1"), "v1 holds a condensenet_50"),
    (_of("deep", "images", "--config.data.image_size=7"), "7×7 image is too small"),
    (_of("ours", "four"), "ours on four: 4 classes of images, 3 of the network"),
    (_of("ours", "missing"), "missing is not a directory: put images at"),
    (_of("ours", "notes.txt"), "notes.txt is not a directory: put images at"),
    (_of("ours", ""), "data.directory is empty"),
    (_of("ours", "empty"), "empty holds no images"),
    (_of("ours", "images", "--weights", "ema"), "ours holds one network, with no choice of weights"),
    (_of("ours", "broken", "--output", "new.npz"), "broken/b/y.png cannot be read as an image"),
    (_of("ours", "images", "--output", "old.npz"), "old.npz exists: give another path, or --overwrite"),
    (_of("ours", "images", "--output", "notes.txt/new.npz"), "notes.txt/new.npz"),
    # `--overwrite` is for the file of an earlier evaluation, not for a directory and all in it.
    (_of("ours", "images", "--output", "precious", "--overwrite"), "precious exists and is a directory"),
    (_of("ours", "images", "--output", ".", "--overwrite"), ". exists and is a directory"),
]


@pytest.mark.parametrize(("arguments", "complaint"), REFUSED, ids=[complaint for _, complaint in REFUSED])
def test_refused(arguments: tuple[str, ...], complaint: str, cluttered: Path, shell: Shell) -> None:
    shutil.copytree(cluttered, shell.directory, dirs_exist_ok=True)
    assert complaint in shell.refuses("main.py", "eval", *arguments)


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
    printed = shell.succeeds(*evaluation, "--checkpoint", official, "--weights", weights, "--output", "theirs.npz")
    taken = "EMA weights (state_dict_ema)" if weights == "auto" else "live weights (state_dict)"
    assert f"weights: {taken}; the file also holds state_dict" in printed
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
