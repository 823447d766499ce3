"""The likeliest classes of image files, with any network; what cannot be read does not keep the rest."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from cdnv2_jax import UserError, save
from cdnv2_jax.classification.predict import Prediction, predict
from cdnv2_jax.data.decode import BrokenImage
from cdnv2_jax.data.preparation import CIFAR10, ImagePreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.weights.metadata import Described
from cdnv2_jax.weights.open import Classifier, open_classifier
from tests.data.image_files import write_noise
from tests.data.photographs import photographs
from tests.weights.networks import network, used

USAGE = Usage(ImagePreparation(16, "whole", "bilinear", *CIFAR10), ("cat", "dog", "eel"))


@pytest.fixture
def album(tmp_path: Path) -> list[Path]:
    """Five images in two folders, in their order."""
    write_noise(tmp_path / "album", ["a", "b"], 2)
    Image.new("L", (9, 7), 90).save(tmp_path / "album" / "z.png")
    return [tmp_path / "album" / name for name in ("z.png", "a/0.png", "a/1.png", "b/0.png", "b/1.png")]


@pytest.fixture
def classifier(tmp_path: Path) -> Classifier:
    save(tmp_path / "network", used(network("condensed"), USAGE))
    return open_classifier(tmp_path / "network")


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_predictions(batch_size: int, classifier: Classifier, album: list[Path]) -> None:
    """As computed image by image; in batches of any size, the last one filled up."""
    found = list(predict(classifier, album, top=2, batch_size=batch_size))
    assert [one.path for one in found if isinstance(one, Prediction)] == album
    for path, prediction in zip(album, found, strict=True):
        assert isinstance(prediction, Prediction)
        pixels = USAGE.preparation(np.array(Image.open(path).convert("RGB")))
        expected = softmax(np.asarray(network("condensed")(jnp.asarray(pixels[None]))[0], np.float64))
        order = np.argsort(expected)[::-1][:2]
        assert [one.label for one in prediction.classes] == order.tolist()
        assert [one.name for one in prediction.classes] == [USAGE.class_names[label] for label in order]
        assert [one.probability for one in prediction.classes] == pytest.approx(expected[order], abs=1e-6)


def test_broken_images(classifier: Classifier, album: list[Path], tmp_path: Path) -> None:
    """In their places; whole batches of them, too."""
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    paths = [tmp_path / "missing.jpg", tmp_path / "broken.jpg", album[0], tmp_path / "broken.jpg", album[1]]
    found = list(predict(classifier, paths, batch_size=2))
    assert [type(one) for one in found] == [BrokenImage, BrokenImage, Prediction, BrokenImage, Prediction]
    assert "missing.jpg cannot be read as an image (No such file or directory)" in str(found[0])
    whole = list(predict(classifier, [album[0], album[1]]))
    for one, other in zip((found[2], found[4]), whole, strict=True):
        assert isinstance(one, Prediction) and isinstance(other, Prediction)
        assert [c.probability for c in one.classes] == pytest.approx([c.probability for c in other.classes], abs=1e-6)


def test_names(tmp_path: Path) -> None:
    save(tmp_path / "network", network("condensed"))
    nameless = open_classifier(tmp_path / "network").described.usage
    assert nameless.name_of(2) == "class 2"
    named = open_classifier(tmp_path / "network", class_names=["x", "y", "z"]).described.usage
    assert named.name_of(2) == "z"
    with pytest.raises(UserError, match="2 names for 3 classes"):
        open_classifier(tmp_path / "network", class_names=["x", "y"])


def test_equal_probabilities_keep_their_order(album: list[Path]) -> None:
    classifier = Classifier(Described("flat", "plain", 3, USAGE), lambda images: np.zeros((len(images), 3)))
    (found,) = predict(
        classifier, [Path(__file__).parents[2] / "docs" / "images" / "digits_learning_curves.png"], top=9
    )
    assert isinstance(found, Prediction)
    assert [(one.label, one.name) for one in found.classes] == [(0, "cat"), (1, "dog"), (2, "eel")]
    assert [one.probability for one in found.classes] == pytest.approx([1 / 3] * 3)


def test_a_program_that_gives_something_else(album: list[Path]) -> None:
    classifier = Classifier(Described("other", "plain", 3, USAGE), lambda images: np.zeros((len(images), 4)))
    with pytest.raises(UserError, match="says it has 3 classes"):
        list(predict(classifier, album))
    damaged = Classifier(Described("other", "plain", 3, USAGE), lambda images: np.full((len(images), 3), np.nan))
    with pytest.raises(UserError, match="the network other returns NaN or infinity"):
        list(predict(damaged, album))


def test_photographs_are_shown_upright(classifier: Classifier, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(photographs(60, 40)[0])
    picture.save(tmp_path / "turned.png", exif=exif)
    picture.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    one, other = predict(classifier, [tmp_path / "turned.png", tmp_path / "upright.png"])
    assert isinstance(one, Prediction) and isinstance(other, Prediction)
    assert one.classes == other.classes
