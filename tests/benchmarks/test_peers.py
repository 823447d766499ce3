"""Every peer gives the logits of ours before it may be timed; who does not is refused."""

import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.comparison import admitted
from benchmarks.networks import FORMS, Form, example_images, example_labels, pruned_pair, twin_of
from benchmarks.peers import PEERS, TRAINERS
from benchmarks.peers.folded import folded, folded_weight
from benchmarks.peers.peer import DifferentResults, check_same
from benchmarks.timing import Call
from benchmarks.training import OPTIMIZER, SMOOTHING, first_losses, our_step
from cdnv2_jax import condense
from cdnv2_jax.weights.programs import compiled_forward
from tests.benchmarks.conftest import IMAGE_SIZE
from tests.torch_twin import CondenseNetTwin, converted
from tests.torch_twin.layers import CondensedSfr

PAIRS = [(name, form) for name, peer in PEERS.items() for form in FORMS if form in peer.forms]
IMAGES = [example_images(batch, IMAGE_SIZE) for batch in (1, 3)]
LABELS = example_labels(3, 7)


COMPILER = shutil.which("g++") and (Path(sysconfig.get_path("include")) / "Python.h").is_file()
COMPILED = [
    pytest.mark.soak,  # inductor's first compilation in a process takes most of a minute, whatever the network
    pytest.mark.skipif(not COMPILER, reason="inductor needs a C++ compiler and Python's headers"),
]


def _marked(name: str, *values: str) -> object:
    return pytest.param(name, *values, marks=COMPILED if "compile" in name else [])


@pytest.fixture(scope="module")
def twin(small: str) -> CondenseNetTwin:
    return pruned_pair(small)[1]


@pytest.fixture(scope="module")
def logits(small: str) -> dict[Form, list[np.ndarray]]:
    """Ours, of all IMAGES."""
    masked, _ = pruned_pair(small)
    forwards = {"masked": compiled_forward(masked), "condensed": compiled_forward(condense(masked))}
    return {form: [np.asarray(forwards[form](images)) for images in IMAGES] for form in FORMS}


@pytest.fixture(scope="module")
def losses(small: str) -> np.ndarray:
    """Ours, of the first steps."""
    return first_losses(our_step(pruned_pair(small)[0], IMAGES[1], LABELS))


@pytest.mark.parametrize(("name", "form"), [_marked(*pair) for pair in PAIRS])
def test_same_logits(name: str, form: Form, twin: CondenseNetTwin, logits: dict[Form, list[np.ndarray]]) -> None:
    """For any batch."""
    loaded = PEERS[name].load(twin, form)
    for images, ours in zip(IMAGES, logits[form], strict=True):
        check_same(ours, np.asarray(loaded(images)()), 1e-5)


def test_peers_leave_the_twin_as_it_was(twin: CondenseNetTwin) -> None:
    """It is shared: a peer that lays its weights out anew must do so with a copy."""
    PEERS["torch_channels_last"].load(twin, "masked")
    assert all(weight.is_contiguous() for weight in twin.parameters())


def test_folded_reactivation(twin: CondenseNetTwin) -> None:
    """One dense kernel in the place of shuffle, grouped convolution and 0/1 matrix."""
    official = converted(twin)
    layer = next(layer for layer in official.modules() if isinstance(layer, CondensedSfr))
    assert folded_weight(layer).shape == (layer.index.shape[1], layer.norm.num_features, 1, 1)
    assert not any(isinstance(layer, CondensedSfr) for layer in folded(official).modules())
    assert any(isinstance(layer, CondensedSfr) for layer in official.modules())


@pytest.mark.parametrize("name", [_marked(name) for name in TRAINERS])
def test_same_losses(name: str, small: str, losses: np.ndarray) -> None:
    """Forward, backward and update agree over the first steps; the loss falls."""
    own_twin = twin_of(pruned_pair(small)[0])
    check_same(losses, first_losses(TRAINERS[name].start(own_twin, IMAGES[1], LABELS, OPTIMIZER, SMOOTHING)), 1e-5)
    assert losses[-1] < losses[0]


def test_who_computes_something_else_is_refused() -> None:
    expected = np.array([[1.0, 2.0]])

    def broken() -> Call:
        raise ImportError("No module named 'peer'")

    contenders: dict[str, Callable[[], Call]] = {
        "right": lambda: lambda: torch.tensor([[1.0, 2.0]]),
        "wrong": lambda: lambda: expected + 0.1,
        "nan": lambda: lambda: expected * np.nan,
        "broken": broken,
    }
    calls, refused = admitted(contenders, expected)
    assert list(calls) == ["right"]
    assert set(refused) == {"wrong", "nan", "broken"}
    assert "4.8e-02" in refused["wrong"]
    assert refused["broken"] == "No module named 'peer'"


def test_shapes_must_agree() -> None:
    with pytest.raises(DifferentResults, match="shapes"):
        check_same(np.zeros((2, 3)), np.zeros((2, 1)))
