"""`main.py eval` uses a checkpoint as it was trained: its preprocessing, and its classes by their names."""

import io
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cdnv2_jax import save
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.data.usage import Usage
from tests.commands.shell import DIGITS, Shell
from tests.data.sources import huggingface_sets, webdataset_tars
from tests.weights.networks import network, used

PREPARATION = ImagePreparation(16, "centre", "bicubic", (0.2, 0.3, 0.4), (0.5, 0.6, 0.7), shorter_side=20)
EVALUATION = ("main.py", "eval", "--config", DIGITS, "--checkpoint", "ours")
ON_FOLDERS = "--config.data.source=image_folder"


@pytest.fixture
def ours(shell: Shell) -> None:
    """A network that knows its use, and three photographs of its classes."""
    save("ours", used(network("pruned"), Usage(PREPARATION, ["cat", "dog", "fox"])))
    for index, name in enumerate(("cat", "dog", "fox")):
        Path("images", name).mkdir(parents=True)
        noise = np.random.default_rng(index).integers(0, 256, (30 + index, 40, 3), np.uint8)
        Image.fromarray(noise).save(f"images/{name}/0.png")


def _evaluated(shell: Shell, directory: str, *more: str) -> tuple[str, np.ndarray]:
    arguments = (f"--config.data.directory={directory}", "--output", "out.npz", "--overwrite")
    printed = shell.succeeds(*EVALUATION, ON_FOLDERS, *arguments, *more)
    with np.load("out.npz") as saved:
        return printed, saved["logits"]


def _expected(*files: str | io.BytesIO, preparation: ImagePreparation = PREPARATION) -> np.ndarray:
    images = [preparation(np.asarray(Image.open(file))) for file in files]
    return np.asarray(network("pruned")(jnp.stack(images)))


ALL = ("images/cat/0.png", "images/dog/0.png", "images/fox/0.png")


def test_own_preprocessing(ours: None, shell: Shell) -> None:
    printed, logits = _evaluated(shell, "images")
    np.testing.assert_allclose(logits, _expected(*ALL), atol=1e-5)
    assert "held out: 3 images of 3 classes, image_folder images" in printed
    assert "data.eval_crop centre (checkpoint) instead of whole (config file)" in printed


def test_flags_take_precedence(ours: None, shell: Shell) -> None:
    flags = ("--config.data.resize=30", "--config.data.interpolation=bilinear")
    printed, logits = _evaluated(shell, "images", *flags)
    as_told = ImagePreparation(16, "centre", "bilinear", PREPARATION.mean, PREPARATION.std, shorter_side=30)
    np.testing.assert_allclose(logits, _expected(*ALL, preparation=as_told), atol=1e-5)
    assert "data.resize 30 (command line) instead of 20 (checkpoint)" in printed


def test_some_classes_in_another_order(ours: None, shell: Shell) -> None:
    """Of the data set's two classes only, in its order; labels are its own."""
    Path("some").mkdir()
    Path("images/fox").rename("some/a fox")
    assert "does not know 1 of 1 classes of the images (a fox)" in shell.refuses(
        *EVALUATION, ON_FOLDERS, "--config.data.directory=some"
    )
    Path("some/a fox").rename("some/fox")
    Path("images/cat").rename("some/cat")
    printed, logits = _evaluated(shell, "some")
    np.testing.assert_allclose(logits, _expected("some/cat/0.png", "some/fox/0.png")[:, [0, 2]], atol=1e-5)
    assert "evaluated on 2 of the network's 3 classes" in printed


def test_data_sets_of_other_programs(shell: Shell) -> None:
    """The same images from Hugging Face's format and from tars have the same logits, those of the network."""
    names = huggingface_sets.NAMES
    save("ours", used(network("pruned"), Usage(PREPARATION, names)))
    labels = huggingface_sets.LABELS["validation"]
    pictures = [huggingface_sets.png("validation", index) for index in range(len(labels))]
    huggingface_sets.write_saved(Path("saved"))
    files = {
        f"{index}.{ending}": content
        for index, picture in enumerate(pictures)
        for ending, content in (("png", picture), ("cls", names[labels[index]].encode()))
    }
    webdataset_tars.write_tar(Path("shards/val-000000.tar"), files)
    Path("shards/classnames.txt").write_text("\n".join(names))
    for source, directory in (("huggingface", "saved"), ("webdataset", "shards")):
        arguments = (f"--config.data.source={source}", f"--config.data.directory={directory}")
        printed = shell.succeeds(*EVALUATION, *arguments, "--output", "out.npz", "--overwrite")
        assert f"held out: 3 images of 3 classes, {source} {directory}" in printed
        with np.load("out.npz") as saved:
            np.testing.assert_allclose(saved["logits"], _expected(*map(io.BytesIO, pictures)), atol=1e-5)
            assert saved["labels"].tolist() == labels
