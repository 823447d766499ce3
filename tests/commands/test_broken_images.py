"""Images that cannot be read: the run stops and names them, or goes on as far as it was told to."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from cdnv2_jax import save
from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.experiment import preparation_of
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.data.usage import Usage
from tests.commands.runs import records_of, summary_of
from tests.commands.shell import DIGITS, TINY, Shell
from tests.weights.networks import network, used

ON_IMAGES = (
    *("--config", DIGITS, *TINY, "--config.data.source=image_folder", "--config.data.directory=images"),
    *("--config.data.crop=random_resized", "--config.data.batch_size=4", "--config.data.eval_batch_size=4"),
    *("--config.model.num_classes=3", "--config.epochs=3"),
)
TRAIN = ("main.py", "train", *ON_IMAGES, "--workdir", "run")
ALLOWED = "--config.data.max_broken_images=1"


@pytest.fixture
def images(shell: Shell) -> Path:
    """Nine JPEG images to train on and six held out, of three classes."""
    random = np.random.default_rng(0)
    for split, each in (("train", 3), ("val", 2)):
        for name in "abc":
            folder = Path("images", split, name)
            folder.mkdir(parents=True)
            for number in range(each):
                Image.fromarray(random.integers(0, 256, (24, 20, 3), np.uint8)).save(folder / f"{number}.jpg")
    return Path("images")


def _cut_off(image: Path) -> str:
    """Half of the file is lost; returns its name."""
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    return str(image)


def test_training_on_whole_images(images: Path, shell: Shell) -> None:
    shell.succeeds(*TRAIN, ALLOWED)
    assert not records_of(Path("run"), "broken_image")
    assert 0 <= summary_of(Path("run"))["masked"]["accuracy"] <= 1


@pytest.mark.parametrize("workers", [0, 1])
def test_training_stops(workers: int, images: Path, shell: Shell) -> None:
    name = _cut_off(images / "train/b/1.jpg")
    outcome = shell.run(*TRAIN, f"--config.data.workers={workers}")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert f"main.py train: {name} cannot be read as an image" in outcome.err
    assert "config.data.max_broken_images" in outcome.err


def test_training_goes_on(images: Path, shell: Shell) -> None:
    """The image comes again in every epoch; it is spoken of once."""
    name = _cut_off(images / "train/b/1.jpg")
    printed = shell.succeeds(*TRAIN, ALLOWED)
    assert printed.count(name) == 1
    assert [record["name"] for record in records_of(Path("run"), "broken_image")] == [name]


def test_one_too_many(images: Path, shell: Shell) -> None:
    names = {_cut_off(images / "train/b/1.jpg"), _cut_off(images / "train/c/2.jpg")}
    outcome = shell.run(*TRAIN, ALLOWED)
    assert outcome.status == 2
    assert [name in outcome.err for name in names].count(True) == 1
    assert "at most 1 may be broken" in outcome.err


def test_held_out_image_stops_training(images: Path, shell: Shell) -> None:
    name = _cut_off(images / "val/c/0.jpg")
    outcome = shell.run(*TRAIN)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert f"{name} cannot be read as an image" in outcome.err


def test_evaluation_leaves_it_out(images: Path, shell: Shell) -> None:
    """The logits of the other images are the same as if all could be read."""
    save("network", network("pruned"))
    evaluate = ("main.py", "eval", *ON_IMAGES, "--checkpoint", "network")
    assert "6 images of image_folder" in shell.succeeds(*evaluate, "--output", "all.npz")
    name = _cut_off(images / "val/b/0.jpg")
    assert f"{name} cannot be read as an image" in shell.refuses(*evaluate)
    printed = shell.succeeds(*evaluate, ALLOWED, "--output", "some.npz")
    assert "5 images of image_folder" in printed
    assert f"skipped, unreadable: {name}" in printed
    with np.load("all.npz") as whole, np.load("some.npz") as some:
        kept = [0, 1, 3, 4, 5]
        np.testing.assert_array_equal(some["labels"], whole["labels"][kept])
        np.testing.assert_allclose(some["logits"], whole["logits"][kept], rtol=1e-6)


def test_training_images_of_another_size(images: Path, shell: Shell) -> None:
    """Without a crop they must fit: what to do about it is said, once."""
    Image.new("RGB", (8, 9)).save(images / "train" / "a" / "0.jpg")
    for path in images.rglob("*.jpg"):
        if path != images / "train" / "a" / "0.jpg":
            Image.new("RGB", (8, 8)).save(path)
    outcome = shell.run(*TRAIN, "--config.data.crop=none")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "images/train/a/0.jpg is 8 × 9 pixels, not 8 × 8" in outcome.err


@pytest.mark.parametrize("crop", ["none", "random_resized"])
def test_evaluation_and_prediction_prepare_images_alike(crop: str, images: Path, shell: Shell) -> None:
    """Whatever their size: the whole of them resized, or their centre, as the config says."""
    options = (*ON_IMAGES[2:], f"--config.data.crop={crop}")
    config = read_config(DIGITS, options)
    assert isinstance(config, ClassificationConfig)
    save("network", used(network("pruned"), Usage(preparation_of(config), "abc")))
    shell.succeeds("main.py", "eval", *ON_IMAGES[:2], *options, "--checkpoint", "network", "--output", "all.npz")
    outcome = shell.run("main.py", "predict", "--checkpoint", "network", "--format", "json", str(images / "val"))
    lines = outcome.out.splitlines()
    predicted = [{one["label"]: one["probability"] for one in json.loads(line)["classes"]} for line in lines]
    with np.load("all.npz") as evaluated:
        expected = softmax(evaluated["logits"].astype(np.float64), axis=1)
    found = [[classes[label] for label in range(3)] for classes in predicted]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
