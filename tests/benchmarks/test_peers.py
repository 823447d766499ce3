"""Every peer gives the logits of ours before it may be timed; who does not is refused."""

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
from cdnv2_jax.evaluation import compiled_forward
from tests.benchmarks.conftest import TINY_SIZE
from tests.torch_twin import converted
from tests.torch_twin.layers import CondensedSfr

PAIRS = [(name, form) for name, peer in PEERS.items() for form in FORMS if form in peer.forms]
# Inductor's first compilation in a process takes most of a minute, whatever the network.
COMPILED = {"torch_compile", "torch_compile_folded"}


def _marked(name: str, *values: str) -> object:
    return pytest.param(name, *values, marks=[pytest.mark.slow] if name in COMPILED else [])


@pytest.mark.parametrize(("name", "form"), [_marked(*pair) for pair in PAIRS])
def test_same_logits(name: str, form: Form, tiny: str) -> None:
    masked, twin = pruned_pair(tiny)
    loaded = PEERS[name].load(twin, form)
    forward = compiled_forward(condense(masked) if form == "condensed" else masked)
    for batch, size in ((1, TINY_SIZE), (3, TINY_SIZE), (2, TINY_SIZE + 8)):
        images = example_images(batch, size)
        check_same(np.asarray(forward(images)), np.asarray(loaded(images)()), 1e-5)


def test_peers_leave_the_twin_as_it_was(tiny: str) -> None:
    """It is shared: a peer that lays its weights out anew must do so with a copy."""
    _, twin = pruned_pair(tiny)
    PEERS["torch_channels_last"].load(twin, "masked")
    assert all(weight.is_contiguous() for weight in twin.parameters())


def test_folded_reactivation(tiny: str) -> None:
    """One dense kernel in the place of shuffle, grouped convolution and 0/1 matrix."""
    official = converted(pruned_pair(tiny)[1])
    layer = next(layer for layer in official.modules() if isinstance(layer, CondensedSfr))
    channels = layer.norm.num_features
    assert folded_weight(layer).shape == (layer.index.shape[1], channels, 1, 1)
    assert not any(isinstance(layer, CondensedSfr) for layer in folded(official).modules())
    assert any(isinstance(layer, CondensedSfr) for layer in official.modules())


@pytest.mark.parametrize("name", [_marked(name) for name in TRAINERS])
def test_same_losses(name: str, tiny: str) -> None:
    """Forward, backward and update agree over the first steps; the loss falls."""
    model, _ = pruned_pair(tiny)
    images, labels = example_images(8, TINY_SIZE), example_labels(8, 7)
    theirs = TRAINERS[name].start(twin_of(model), images, labels, OPTIMIZER, SMOOTHING)
    ours = first_losses(our_step(model, images, labels))
    check_same(ours, first_losses(theirs), 1e-5)
    assert ours[-1] < ours[0]


def test_who_computes_something_else_is_refused() -> None:
    expected = np.array([[1.0, 2.0]])

    def broken() -> Call:
        raise ImportError("No module named 'peer'")

    calls, refused = admitted(
        {
            "right": lambda: lambda: torch.tensor([[1.0, 2.0]]),
            "wrong": lambda: lambda: expected + 0.1,
            "nan": lambda: lambda: expected * np.nan,
            "broken": broken,
        },
        expected,
    )
    assert list(calls) == ["right"]
    assert set(refused) == {"wrong", "nan", "broken"}
    assert "4.8e-02" in refused["wrong"]
    assert refused["broken"] == "No module named 'peer'"


def test_shapes_must_agree() -> None:
    with pytest.raises(DifferentResults, match="shapes"):
        check_same(np.zeros((2, 3)), np.zeros((2, 1)))
