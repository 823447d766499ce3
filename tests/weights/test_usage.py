"""A network says how to use it; what it says is not trusted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import UserError, condense, create_model, load, prune, save
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.checkpoint import USAGE_KEY
from cdnv2_jax.weights.open import OpenedNetwork, open_network
from tests.weights.networks import description, rewrite_description, used

MEAN, STD = (0.1, 0.1, 0.1), (0.2, 0.2, 0.2)
SAID: dict[str, Any] = {
    "preparation": {"size": 16, "resize": "whole", "interpolation": "bilinear", "mean": MEAN, "std": STD},
    "class_names": ["cat", "dog", "eel"],
}


@pytest.fixture(scope="module")
def network() -> Network:
    return create_model("cdnv2_cifar_110", num_classes=3, stages=(1,), growth=(8,), rngs=nnx.Rngs(0))


def test_what_a_network_says(tmp_path: Path, network: Network) -> None:
    usage = Usage(ImagePreparation(16, "whole", "bilinear", MEAN, STD), ("cat", "dog", "eel"))
    save(tmp_path / "it", used(network, usage))
    assert load(tmp_path / "it").usage == open_network(tmp_path / "it").usage == usage
    assert Usage.from_json(usage.to_json(), 3) == usage
    assert [usage.name_of(1), Usage(usage.preparation).name_of(1)] == ["dog", "class 1"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"class_names": ["cat"]}, "1 names for 3 classes"),
        ({"preparation": {}}, "invalid preprocessing or class names"),
        ({"preparation": {**SAID["preparation"], "size": 10**9}}, "invalid size 1000000000"),
        ({"preparation": {**SAID["preparation"], "std": [0, 1, 1]}}, "std"),
        ({"preparation": {**SAID["preparation"], "resize": "never"}}, "invalid resize 'never'"),
    ],
)
def test_what_cannot_be(tmp_path: Path, network: Network, change: dict[str, Any], complaint: str) -> None:
    """Not believed, should it be damaged; `save` writes the network's own."""
    with pytest.raises(UserError, match="metadata cannot have the key 'usage': set the network's usage instead"):
        save(tmp_path / "it", network, metadata={USAGE_KEY: SAID})
    save(tmp_path / "it", network)
    rewrite_description(tmp_path / "it", description(tmp_path / "it") | {"metadata": {USAGE_KEY: SAID | change}})
    with pytest.raises(UserError, match=complaint):
        load(tmp_path / "it")


def test_usage_stays_with_the_network(tmp_path: Path, network: Network) -> None:
    """However it is copied, pruned, condensed, merged or jitted; names go with the classifier that they belong to."""
    usage = Usage(ImagePreparation(16, "whole", "bilinear", MEAN, STD), ("cat", "dog", "eel"))
    own = used(network, usage)
    prune(own, own.condensation_stages)
    assert nnx.merge(*nnx.split(own)).usage == usage
    nnx.jit(lambda model: model.train())(own)
    assert own.usage == usage
    save(tmp_path / "it", condense(own))
    assert load(tmp_path / "it").usage == usage
    assert (
        load(tmp_path / "it", num_classes=3).usage
        == load(tmp_path / "it", num_classes=5).usage
        == Usage(usage.preparation)
    )
    v1 = create_model("condensenet_50", num_classes=3, stages=(1,), growth=(8,), rngs=nnx.Rngs(0))
    v1.usage = usage
    prune(v1, 3)
    assert condense(v1, halve_classifier=True).usage == usage


def test_graphs_of_equal_usage_are_equal(network: Network) -> None:
    """So nothing is compiled twice."""
    first, second = (
        nnx.graphdef(used(network, Usage(ImagePreparation(16, "whole", "bilinear", MEAN, STD), list("abc"))))
        for _ in range(2)
    )
    assert first == second and hash(first) == hash(second)


def test_silent_networks_are_used_as_the_official_code_does(tmp_path: Path, network: Network) -> None:
    save(tmp_path / "it", network)
    assert open_network(tmp_path / "it").usage.preparation.size == 32
    official = create_model("cdnv2_a", stages=(1,) * 5, rngs=nnx.Rngs(0))
    usage = OpenedNetwork(Path("cdnv2_a.pth.tar"), official, {}).usage
    expected = ImagePreparation(224, "centre", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert usage.preparation == expected
    assert (len(usage.class_names), usage.name_of(0), usage.name_of(999)) == (
        1000,
        "tench, Tinca tinca",
        "toilet tissue, toilet paper, bathroom tissue",
    )


def test_preparation() -> None:
    """An image of the right size is only normalised; another is resized as a whole, or its centre is cut out."""
    grey = np.full((20, 10, 3), 51, np.uint8)
    whole = ImagePreparation(16, "whole", "bilinear", MEAN, STD)
    np.testing.assert_allclose(whole(grey), np.full((16, 16, 3), 0.5), atol=1e-6)
    np.testing.assert_array_equal(whole.resized(grey[:16].repeat(2, 1)[:, :16]), grey[:16].repeat(2, 1)[:, :16])
    edge = np.zeros((448, 224, 3), np.uint8)
    edge[:112] = edge[-112:] = 255  # what the centre does not hold
    assert ImagePreparation(112, "centre", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))(edge)[8:-8].max() == 0
