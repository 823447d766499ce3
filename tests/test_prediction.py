"""`cdnv2_jax.predict` and `preprocess`: the same for an image however it is given, and named if it cannot be used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from PIL import Image, ImageOps
from scipy.special import softmax

from cdnv2_jax import ImagePreparation, Usage, UserError, predict, preprocess, save
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.weights.open import open_classifier
from cdnv2_jax.weights.programs import compiled_forward
from tests.data.image_files import write_noise
from tests.weights.networks import network, used

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
USAGE = Usage(ImagePreparation(16, "whole", "bilinear", MEAN, STD), ("cat", "dog", "eel"))
GREY = Usage(ImagePreparation(16, "whole", "bilinear", (0.25,), (0.5,)))


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """Three images: noise, grey with 16 bits, and one that is to be turned."""
    write_noise(tmp_path, ["a"], 2)
    turned = Image.open(tmp_path / "a/1.png")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    deep = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30) * 50
    Image.fromarray(deep).save(tmp_path / "deep.png")
    return [tmp_path / "a/0.png", tmp_path / "deep.png", tmp_path / "turned.jpg"]


def _array(path: Path) -> np.ndarray:
    """The image's upright pixels, as Pillow and arithmetic give them."""
    image = ImageOps.exif_transpose(Image.open(path))
    return (np.array(image) >> 8).astype(np.uint8) if "deep" in path.name else np.array(image)


def _expected(path: Path) -> np.ndarray:
    image = Image.fromarray(_array(path)).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
    return (np.asarray(image, np.float32) / 255 - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)


@pytest.mark.parametrize("given", [str, Path, Image.open, _array], ids=["str", "Path", "Pillow", "array"])
def test_an_image_is_prepared_alike_however_it_is_given(given: Callable[[Path], Any], photographs: list[Path]) -> None:
    prepared = preprocess(USAGE, [given(path) for path in photographs])
    np.testing.assert_allclose(prepared, np.stack([_expected(path) for path in photographs]), atol=1e-6)
    np.testing.assert_array_equal(preprocess(USAGE, given(photographs[1])), prepared[1:2])


def test_grey_networks_read_photographs_as_pillow_converts_them(photographs: list[Path]) -> None:
    grey = np.asarray(Image.open(photographs[0]).convert("L").resize((16, 16), Image.Resampling.BILINEAR), np.float32)
    expected = (grey[None, :, :, None] / 255 - 0.25) / 0.5
    for given in (photographs[0], _array(photographs[0]), Image.open(photographs[0])):
        np.testing.assert_allclose(preprocess(GREY, given), expected, atol=1e-6)


def test_predictions_come_in_order(photographs: list[Path], tmp_path: Path) -> None:
    """Whatever the mode of the network, the size of batches and the way it is given."""
    model = used(network("condensed"), USAGE)
    assert isinstance(model, CondenseNet)
    save(tmp_path / "network", model)
    logits = np.asarray(compiled_forward(model)(np.stack([_expected(path) for path in photographs])), np.float64)
    model.train()
    before = nnx.state(model)
    opened = open_classifier(tmp_path / "network")
    for found in (
        predict(model, photographs),
        predict(str(tmp_path / "network"), photographs, batch_size=2),
        predict(opened, iter(map(Image.open, photographs))),
    ):
        for prediction, expected in zip(found, softmax(logits, axis=1), strict=True):
            order = np.argsort(-expected)
            assert [one.label for one in prediction.classes] == order.tolist()
            assert [one.name for one in prediction.classes] == [USAGE.class_names[label] for label in order]
            np.testing.assert_allclose([one.probability for one in prediction.classes], expected[order], atol=1e-5)
    assert [one.path for one in predict(opened, photographs, top=1)] == photographs
    assert [one.path for one in predict(opened, str(tmp_path / "a"))] == [tmp_path / "a/0.png", tmp_path / "a/1.png"]
    single = predict(opened, np.stack([_array(photographs[0])] * 2), top=1)
    assert [(one.path, len(one.classes)) for one in single] == [(None, 1), (None, 1)]
    assert predict(opened, []) == [] and preprocess(opened, []).shape == (0, 16, 16, 3)
    assert not model.norm_last.use_running_average
    assert all(map(np.array_equal, nnx.to_flat_state(before).leaves, nnx.to_flat_state(nnx.state(model)).leaves))


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        ("missing.png", "missing.png cannot be read as an image"),
        (np.zeros((4, 4, 3), np.float32), r"image 1 cannot be read as an image .float32 \[4, 4, 3\].: give uint8"),
        (np.zeros((3, 4, 4), np.uint8), "image 1: an image has 4 channels, the network reads 3"),
        (np.zeros((0, 4, 3), np.uint8), r"image 1 cannot be read as an image .uint8 \[0, 4, 3\]"),
        (None, "image 1 cannot be read as an image .a NoneType"),
        (Image.new("F", (4, 4)), "image 1 cannot be read as an image .its levels have no known scale"),
    ],
)
def test_an_image_that_cannot_be_used_is_named(image: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        preprocess(USAGE, [np.zeros((4, 4), np.uint8), image])


def test_what_is_not_a_classifier(tmp_path: Path) -> None:
    grey = used(network(in_channels=1), USAGE)
    for model, complaint in (
        (nnx.Linear(2, 2, rngs=nnx.Rngs(0)), "a Linear is not a classifier"),
        (tmp_path / "missing", "missing: no such file"),
        (grey, "preprocessing is for images of 3 channels, the network is for 1: set its usage, with 1 means"),
    ):
        with pytest.raises(UserError, match=complaint):
            predict(model, [])  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="top and batch_size must be 1 or more"):
        predict(grey, [], top=0)
