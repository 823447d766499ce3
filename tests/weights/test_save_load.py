"""Our own checkpoints: what was saved is what is loaded, and nothing is overwritten unasked."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax import UserError, load, prune, save
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.weights.checkpoint import load_metadata
from cdnv2_jax.weights.programs import compiled_forward
from tests.weights.networks import FORMS, assert_same_network, contents, network


@pytest.mark.parametrize("form", FORMS)
def test_round_trip(form: str, tmp_path: Path) -> None:
    save(tmp_path / "network", network(form))
    loaded = load(tmp_path / "network")
    assert_same_network(loaded, network(form))
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(compiled_forward(loaded)(images), compiled_forward(network(form))(images))


@pytest.mark.parametrize("name", ["runs [2]", "a\\b", os.fsdecode(b"caf\xe9")])
def test_paths_that_lose_arrays(name: str, tmp_path: Path) -> None:
    """Orbax would write a network that it does not find again."""
    with pytest.raises(UserError, match="cannot hold a checkpoint because of"):
        save(tmp_path / name / "network", network())
    assert not list(tmp_path.iterdir())


def test_other_odd_paths(tmp_path: Path) -> None:
    path = tmp_path / "é ]b [*?#%41$\x1b\n" / "network"
    save(path, network())
    assert_same_network(load(path), network())


def test_networks_with_initial_weights_differ(tmp_path: Path) -> None:
    """The comparison of these tests can fail."""
    save(tmp_path / "network", network())
    with pytest.raises(AssertionError):
        assert_same_network(load(tmp_path / "network"), network(seed=1))


@pytest.mark.parametrize("param_dtype", [jnp.bfloat16, jnp.float16])
def test_other_parameter_types(param_dtype: DTypeLike, tmp_path: Path) -> None:
    model = network("condensed", param_dtype=param_dtype)
    save(tmp_path / "network", model)
    loaded = load(tmp_path / "network")
    assert isinstance(loaded, CondenseNet) and loaded.stem.kernel.dtype == param_dtype
    assert_same_network(loaded, model)


def test_type_of_the_computation_is_chosen_on_loading(tmp_path: Path) -> None:
    save(tmp_path / "network", network())
    images = jnp.ones((1, 8, 8, 3))
    assert jax.eval_shape(load(tmp_path / "network"), images).dtype == jnp.float32
    narrow = load(tmp_path / "network", dtype=jnp.bfloat16)
    assert jax.eval_shape(narrow, images).dtype == jnp.bfloat16
    assert_same_network(narrow, network())


def test_loaded_network_is_in_evaluation_mode(tmp_path: Path) -> None:
    model = nnx.clone(network())
    model.train()
    save(tmp_path / "network", model)
    loaded = load(tmp_path / "network")
    assert isinstance(loaded, CondenseNet) and loaded.norm_last.use_running_average
    assert all(conv.norm.use_running_average for conv in loaded.masked_convs())


def test_loaded_network_can_be_pruned_on(tmp_path: Path) -> None:
    save(tmp_path / "network", network("partly pruned"))
    loaded = load(tmp_path / "network")
    prune(loaded, 3)
    assert_same_network(loaded, network("pruned"))


def test_saving_leaves_the_network_alone(tmp_path: Path) -> None:
    before = nnx.clone(network("condensed"))
    save(tmp_path / "network", network("condensed"))
    assert_same_network(network("condensed"), before)


def test_metadata(tmp_path: Path) -> None:
    note = {"accuracy": 0.984, "from": "möhre/Ω.pth.tar", "steps": [1, 2, 3], "nested": {"none": None, "true": True}}
    save(tmp_path / "network", network("condensed"), metadata=note)
    kept = load_metadata(tmp_path / "network")
    assert kept["metadata"] == note
    assert kept["name"] == "cdnv2_cifar_110"
    assert kept["form"] == {"condensed": True, "halved_classifier": False}
    assert kept["architecture"]["growth"] == [8, 8]
    assert set(kept["versions"]) == {"cdnv2-jax", "jax", "jaxlib", "flax", "orbax-checkpoint"}


def test_missing_directories_are_made(tmp_path: Path) -> None:
    save(tmp_path / "a" / "b" / "network", network())
    assert_same_network(load(tmp_path / "a" / "b" / "network"), network())


def test_relative_and_textual_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save("network", network())
    assert_same_network(load("network"), network())
    assert [entry.name for entry in tmp_path.iterdir()] == ["network"]


def _occupy(path: Path, occupant: str) -> None:
    if occupant == "checkpoint":
        save(path, network())
    elif occupant == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        if occupant == "directory":
            (path / "mine").write_text("mine")


@pytest.mark.parametrize("occupant", ["checkpoint", "file", "directory", "empty directory"])
def test_existing_path_is_refused(occupant: str, tmp_path: Path) -> None:
    _occupy(tmp_path / "network", occupant)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"network exists: give another path, or --overwrite"):
        save(tmp_path / "network", network("condensed"))
    assert contents(tmp_path) == before


def test_overwriting_replaces_all_of_it(tmp_path: Path) -> None:
    save(tmp_path / "network", network(), metadata={"old": 1})
    save(tmp_path / "network", network("condensed"), overwrite=True)
    assert_same_network(load(tmp_path / "network"), network("condensed"))
    assert load_metadata(tmp_path / "network")["metadata"] == {}
    assert [entry.name for entry in tmp_path.iterdir()] == ["network"]


def test_overwriting_where_nothing_is(tmp_path: Path) -> None:
    save(tmp_path / "network", network(), overwrite=True)
    assert_same_network(load(tmp_path / "network"), network())


@pytest.mark.parametrize("occupant", ["file", "directory"])
def test_overwriting_spares_what_is_no_checkpoint(occupant: str, tmp_path: Path) -> None:
    """A mistyped path must not cost somebody's files."""
    _occupy(tmp_path / "network", occupant)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="is not a checkpoint"):
        save(tmp_path / "network", network(), overwrite=True)
    assert contents(tmp_path) == before


def test_failed_overwriting_keeps_the_old_one(tmp_path: Path) -> None:
    save(tmp_path / "network", network())
    before = contents(tmp_path)
    with pytest.raises(TypeError):
        save(tmp_path / "network", network("condensed"), metadata={"not JSON": object()}, overwrite=True)
    assert contents(tmp_path) == before


def test_failed_saving_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save(tmp_path / "network", network("condensed"), metadata={"not JSON": object()})
    assert contents(tmp_path) == {}


def test_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file/network cannot be written"):
        save(tmp_path / "file" / "network", network())
    assert contents(tmp_path) == {"file": b"mine"}


def test_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orbax passes on what its storage library says, a ValueError; the old checkpoint survives."""
    save(tmp_path / "network", network())
    before = contents(tmp_path)

    def fail(_: object, path: Path, *__: object) -> None:
        path.mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device")

    monkeypatch.setattr(orbax.checkpoint.Checkpointer, "save", fail)
    with pytest.raises(UserError, match=r"network cannot be written: .*No space left on device"):
        save(tmp_path / "network", network("condensed"), overwrite=True)
    assert contents(tmp_path) == before
