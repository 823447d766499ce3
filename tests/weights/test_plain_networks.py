"""ShuffleNetV2 and MobileNetV2 in checkpoints of ours; and those from before there was a choice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import UserError, load, save
from cdnv2_jax.weights.checkpoint import flat_arrays, load_metadata
from cdnv2_jax.weights.programs import compiled_forward
from tests.plain_models import SMALL, plain_network
from tests.weights.networks import assert_same_network, description, network, rewrite_description

EVERY = pytest.mark.parametrize("architecture", SMALL.values(), ids=SMALL)


@EVERY
def test_round_trip(architecture: Any, tmp_path: Path) -> None:
    model = plain_network(architecture)
    model.stem.norm.batches[...] += 17
    save(tmp_path / "network", model, metadata={"from": "here"})
    loaded = load(tmp_path / "network")
    assert (type(loaded), loaded.name, loaded.architecture) == (type(model), "small", architecture)
    ours, theirs = flat_arrays(nnx.state(loaded)), flat_arrays(nnx.state(model))
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array, name)
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(compiled_forward(loaded)(images), compiled_forward(model)(images))


@EVERY
def test_the_family_is_said(architecture: Any, tmp_path: Path) -> None:
    save(tmp_path / "network", plain_network(architecture))
    kept = load_metadata(tmp_path / "network")
    assert kept["family"] == type(plain_network(architecture)).__module__.rsplit(".", 1)[1]
    assert not any(kept["form"].values())


def test_checkpoints_without_a_family_hold_condensenets(tmp_path: Path) -> None:
    save(tmp_path / "network", network("condensed"))
    content = description(tmp_path / "network")
    assert content.pop("family") == "condensenet"
    rewrite_description(tmp_path / "network", content)
    assert_same_network(load(tmp_path / "network"), network("condensed"))


@pytest.mark.parametrize("change", [{"family": "shufflenet_v2"}, {"form": {"condensed": True}}])
def test_descriptions_that_make_no_sense(change: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "network", plain_network(SMALL["mobilenet_v2"]))
    rewrite_description(tmp_path / "network", description(tmp_path / "network") | change)
    with pytest.raises(UserError, match="its description is not valid"):
        load(tmp_path / "network")
