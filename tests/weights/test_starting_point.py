"""Starting from a trained network: its classifier is replaced where it must be, all else is taken over bit for bit."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import create_model, load_torch_checkpoint, save
from cdnv2_jax.data.preparation import CIFAR10, ImagePreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.network import Network
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights.checkpoint import flat_arrays
from cdnv2_jax.weights.starting_point import network_from
from tests.weights.networks import assert_same_network, network, used
from tests.weights.official_files import converted_file, training_file, twin_in_form
from tests.weights.official_files import save as save_official

NAME = "cdnv2_cifar_110"
SIZES = {"stages": (1, 1), "growth": (8, 8), "groups": 4, "condensation_factor": 4}
ARCHITECTURE = architecture_of(NAME, 10, SIZES)
OURS = ["dense", "partly pruned", "pruned", "condensed"]


def _started(path: Path, classes: int, seed: int = 0, **changes) -> Network:
    arguments = {"name": NAME, "overrides": {}, "dtype": jnp.float32, "seed": seed, **changes}
    return network_from(path, class_names=[f"class {label}" for label in range(classes)], **arguments).network


def _arrays(model: Network) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in flat_arrays(nnx.state(model)).items()}


def _assert_new_classifier(started: Network, origin: Network, classes: int) -> None:
    """That of a fresh network in shape and scale; every other array is the origin's."""
    assert started.form == origin.form
    assert started.architecture == origin.architecture.override({"num_classes": classes})
    ours, theirs = _arrays(started), _arrays(origin)
    assert list(ours) == list(theirs)
    new = {name for name in ours if name.startswith("classifier/")}
    for name in ours.keys() - new:
        assert ours[name].dtype == theirs[name].dtype, name
        assert ours[name].tobytes() == theirs[name].tobytes(), name
    kernel, old = ours["classifier/kernel"], theirs["classifier/kernel"]
    assert (kernel.shape, ours["classifier/bias"].shape) == ((old.shape[0], classes), (classes,))
    fresh = create_model(NAME, num_classes=classes, rngs=nnx.Rngs(0), **SIZES)
    expected = np.asarray(fresh.classifier.kernel[...])
    assert kernel.std() == pytest.approx(expected.std(), rel=0.3)
    assert started(jnp.zeros((2, 16, 16, 3))).shape == (2, classes)


@pytest.mark.parametrize("form", OURS)
def test_ours_for_other_classes(form: str, tmp_path: Path) -> None:
    save(tmp_path / "network", network(form))
    _assert_new_classifier(_started(tmp_path / "network", 7), network(form), 7)


@pytest.mark.parametrize("form", OURS)
def test_ours_for_the_same_classes(form: str, tmp_path: Path) -> None:
    save(tmp_path / "network", network(form))
    assert_same_network(_started(tmp_path / "network", 3), network(form))


def test_new_classifiers_are_drawn_from_the_seed(tmp_path: Path) -> None:
    save(tmp_path / "network", network("pruned"))
    first, again, other = (_started(tmp_path / "network", 7, seed) for seed in (0, 0, 1))
    assert_same_network(again, first)
    assert not np.array_equal(first.classifier.kernel[...], other.classifier.kernel[...])
    assert np.asarray(first.classifier.kernel[...]).std() > 0


@pytest.fixture(scope="module", params=["masked", "converted"])
def official(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the official training script, or of its conversion, of a network of ten classes."""
    path = tmp_path_factory.mktemp("official") / "model.pth.tar"
    if request.param == "converted":
        return save_official(path, converted_file(twin_in_form(ARCHITECTURE, "converted")))
    averaged = twin_in_form(ARCHITECTURE, 2)
    return save_official(path, training_file(twin_in_form(ARCHITECTURE, 1, "live"), ema=averaged, arch=NAME))


def test_official_for_other_classes(official: Path) -> None:
    """Of the file's two networks the averaged one, as everywhere."""
    origin = load_torch_checkpoint(official, NAME, **SIZES)
    _assert_new_classifier(_started(official, 7, overrides=SIZES), origin, 7)


def test_official_for_the_same_classes(official: Path) -> None:
    origin = load_torch_checkpoint(official, NAME, **SIZES)
    assert_same_network(_started(official, 10, overrides=SIZES), origin)


@pytest.mark.parametrize("classes", [25, 4])
def test_official_that_was_trained_for_other_classes_than_usual(classes: int, tmp_path: Path) -> None:
    """How many classes a file has is seen from the file."""
    architecture = architecture_of(NAME, 25, SIZES)
    path = save_official(tmp_path / "model.pth", converted_file(twin_in_form(architecture, "converted")))
    origin = load_torch_checkpoint(path, NAME, num_classes=25, **SIZES)
    started = _started(path, classes, overrides=SIZES)
    if classes == 25:
        assert_same_network(started, origin)
    else:
        _assert_new_classifier(started, origin, 4)


def test_another_model(tmp_path: Path) -> None:
    save(tmp_path / "network", network("pruned"))
    with pytest.raises(UserError, match=f"holds a {NAME}, but config.model.name is condensenet_50"):
        _started(tmp_path / "network", 3, name="condensenet_50")


def test_halved_classifier(tmp_path: Path) -> None:
    """What its inputs are worth to other classes went with the half that is gone."""
    save(tmp_path / "network", network("halved"))
    with pytest.raises(UserError, match="has a halved classifier, which cannot be replaced"):
        _started(tmp_path / "network", 7, name="condensenet_50")
    assert_same_network(_started(tmp_path / "network", 3, name="condensenet_50"), network("halved"))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing: no such file or directory"):
        _started(tmp_path / "missing", 3)


def _with_names(path: Path, names: list[str], **changes) -> tuple[np.ndarray, str]:
    """The classifier's kernel of the network at `path` started for classes of these names, and the remark."""
    arguments = {"name": NAME, "overrides": {}, "dtype": jnp.float32, "seed": 0, **changes}
    model, remark = network_from(path, class_names=names, **arguments)
    return np.asarray(model.classifier.kernel[...]), remark


def test_outputs_follow_the_names(tmp_path: Path) -> None:
    """Outputs of known classes are those of the checkpoint, in the order of the new names; of unknown ones, new."""
    origin = network("pruned")
    usage = Usage(ImagePreparation(32, "whole", "bilinear", *CIFAR10), ["cat", "dog", "fox"])
    save(tmp_path / "network", used(origin, usage))
    kernel = np.asarray(origin.classifier.kernel[...])
    for names, labels in ((["cat", "dog", "fox"], [0, 1, 2]), (["fox", "cat", "dog"], [2, 0, 1]), (["dog"], [1])):
        started, remark = _with_names(tmp_path / "network", names)
        np.testing.assert_array_equal(started, kernel[:, labels])
        assert ("by name" in remark) == (labels != [0, 1, 2])
    started, remark = _with_names(tmp_path / "network", ["cat", "dog", "owl"], seed=4)
    assert started.shape == kernel.shape and not np.array_equal(started, kernel)
    assert "re-initialised" in remark and "owl" in remark
