"""Checkpoints that are not whole: a UserError that names the path, never half a network."""

import gc
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
import tensorstore
from flax import nnx

from cdnv2_jax import UserError, load, save
from cdnv2_jax.layers.condensed import CondensedGroupConv, with_gathered_norms
from tests.tables import table
from tests.weights.networks import assert_same_network, description, network, rewrite_description

# When one array cannot be read, Orbax leaves the readers of the others behind without asking how they fared.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", autouse=True)
def no_readers_left_behind() -> Iterator[None]:
    """Python complains about them when it collects them: here, not in some later test."""
    yield
    gc.collect()


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Callable[[], Path]:
    """A whole checkpoint to damage, a new one for every call."""
    return lambda: Path(shutil.copytree(saved, Path(tempfile.mkdtemp(dir=tmp_path)) / "network"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "network"
    save(path, network("partly pruned"))
    return path


def _assert_refused(path: Path, *complaints: str) -> None:
    with pytest.raises(UserError) as refusal:
        load(path)
    message = str(refusal.value)
    assert str(path) in message
    assert len(message) < 1000
    for complaint in complaints:
        assert complaint in message


def test_the_copy_is_whole(copy: Callable[[], Path]) -> None:
    path = copy()
    assert_same_network(load(path), network("partly pruned"))


def test_nothing_there(tmp_path: Path) -> None:
    _assert_refused(tmp_path / "missing", "no such checkpoint")


def test_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    _assert_refused(tmp_path / "file", "is not a checkpoint of this project")


def test_empty_directory(tmp_path: Path) -> None:
    _assert_refused(tmp_path, "is not a checkpoint of this project")


@table("part", ["arrays", "description"])
def test_part_missing(part: str, copy: Callable[[], Path]) -> None:
    path = copy()
    shutil.rmtree(path / part)
    _assert_refused(path, "is not a checkpoint of this project")


@table("part", ["arrays", "description"])
def test_part_empty(part: str, copy: Callable[[], Path]) -> None:
    path = copy()
    shutil.rmtree(path / part)
    (path / part).mkdir()
    _assert_refused(path)


NO_DESCRIPTIONS = {
    "nothing": b"",
    "half of it": b'{"format": 1, "name": "cdnv2_cif',
    "no JSON": b"hello",
    "no text": bytes(range(256)),
    "a list": b"[1, 2]",
    "a number": b"3",
    "null": b"null",
    "an empty object": b"{}",
}


@table("text", NO_DESCRIPTIONS)
def test_description_is_damaged(text: bytes, copy: Callable[[], Path]) -> None:
    path = copy()
    rewrite_description(path, text)
    _assert_refused(path, "description")


Change = Callable[[dict[str, Any]], object]
WRONG_DESCRIPTIONS: dict[str, Change] = {
    "no architecture": lambda d: d.pop("architecture"),
    "no form": lambda d: d.pop("form"),
    "no name": lambda d: d.pop("name"),
    "no type": lambda d: d.pop("param_dtype"),
    "architecture null": lambda d: d.update(architecture=None),
    "architecture a list": lambda d: d.update(architecture=[1, 2]),
    "unknown field": lambda d: d["architecture"].update(colour="red"),
    "missing field": lambda d: d["architecture"].pop("growth"),
    "stages a number": lambda d: d["architecture"].update(stages=3),
    "stages text": lambda d: d["architecture"].update(stages=["1", "1"]),
    "growth too short": lambda d: d["architecture"].update(growth=[8]),
    "no groups": lambda d: d["architecture"].update(lgc_groups=0),
    "groups null": lambda d: d["architecture"].update(conv_groups=None),
    "stride of 2⁵⁸": lambda d: d["architecture"].update(stem_stride=2**58),
    "thousands of layers": lambda d: d["architecture"].update(stages=[15_000, 15_000]),
    "a million blocks": lambda d: d["architecture"].update(stages=[1] * 10**6, growth=[8] * 10**6),
    "half condensed": lambda d: d["form"].update(condensed=0.5),
    "unknown form": lambda d: d["form"].update(frozen=True),
    "form a word": lambda d: d.update(form="condensed"),
    "unknown family": lambda d: d.update(family="resnet"),
    "another family": lambda d: d.update(family="mobilenet_v2"),
    "family a list": lambda d: d.update(family=["condensenet"]),
    "unknown type": lambda d: d.update(param_dtype="float33"),
    "another type": lambda d: d.update(param_dtype="float16"),
    "type of integers": lambda d: d.update(param_dtype="int32"),
}


@table("change", WRONG_DESCRIPTIONS)
def test_description_makes_no_sense(change: Change, copy: Callable[[], Path]) -> None:
    path = copy()
    content = description(path)
    change(content)
    rewrite_description(path, content)
    _assert_refused(path)


OTHER_NETWORKS: dict[str, Change] = {
    "wider": lambda d: d["architecture"].update(growth=[8, 16]),
    "deeper": lambda d: d["architecture"].update(stages=[1, 2]),
    "shallower": lambda d: d["architecture"].update(stages=[1], growth=[8]),
    "more classes": lambda d: d["architecture"].update(num_classes=4),
    "without SE": lambda d: d["architecture"].update(squeeze_excite_from=None),
    "condensed": lambda d: d["form"].update(condensed=True),
}


@table("change", OTHER_NETWORKS)
def test_arrays_do_not_fit(change: Change, copy: Callable[[], Path]) -> None:
    path = copy()
    content = description(path)
    change(content)
    rewrite_description(path, content)
    _assert_refused(path, "do not fit")


def test_a_small_file_of_gigabytes(copy: Callable[[], Path]) -> None:
    """As its description has it, or only as the storage format's own metadata has it: nothing is allocated."""
    path = copy()
    content = description(path)
    content["architecture"]["growth"] = [4096, 4096]
    rewrite_description(path, content)
    _assert_refused(path, "made to fill the memory")
    for change in ({"chunks": [2**20, 2**20]}, {"shape": [2**20, 2**20]}, {"dtype": "<f8"}, {"shape": None}):
        path = copy()
        files = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{path}/arrays/"}).result()
        key = "classifier/kernel/.zarray"
        files.write(key, json.dumps({**json.loads(files.read(key).result().value), **change})).result()
        _assert_refused(path, "do not fit", "classifier/kernel" if change.get("shape", ()) is not None else "shape")


def test_connections_out_of_range(tmp_path: Path) -> None:
    model = nnx.clone(with_gathered_norms(network("condensed")))  # as in files
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, CondensedGroupConv):
            layer.index[...] = layer.index[...].at[1, 0].set(2**20)
    save(tmp_path / "network", model)
    _assert_refused(tmp_path / "network", "blocks/0/0/lgc/index must be in [0, 16)")


def _data_files(path: Path) -> list[Path]:
    return sorted(file for file in (path / "arrays").rglob("*") if file.is_file() and file.stat().st_size)


def test_largest_array_file_missing(copy: Callable[[], Path]) -> None:
    path = copy()
    max(_data_files(path), key=lambda file: file.stat().st_size).unlink()
    _assert_refused(path)


@table("remaining", [0.0, 0.5])
def test_largest_array_file_truncated(remaining: float, copy: Callable[[], Path]) -> None:
    path = copy()
    largest = max(_data_files(path), key=lambda file: file.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[: int(remaining * len(content))])
    _assert_refused(path)


def _assert_noticed_or_harmless(path: Path) -> None:
    try:
        loaded = load(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert_same_network(loaded, network("partly pruned"))


def test_many_damaged_bytes(saved: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    for attempt in range(8):
        path = Path(shutil.copytree(saved, tmp_path / str(attempt)))
        file = chance.choice(_data_files(path))
        content = bytearray(file.read_bytes())
        for _ in range(20):
            content[chance.randrange(len(content))] = chance.randrange(256)
        file.write_bytes(content)
        _assert_noticed_or_harmless(path)


def test_single_damaged_byte(saved: Path, tmp_path: Path) -> None:
    """A weight that has changed a little is as plausible as before: only a checksum can tell."""
    for attempt in range(8):
        path = Path(shutil.copytree(saved, tmp_path / str(attempt)))
        largest = max(_data_files(path), key=lambda file: file.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[(attempt + 1) * len(content) // 10] ^= 1
        largest.write_bytes(content)
        _assert_noticed_or_harmless(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(value: float, tmp_path: Path) -> None:
    model = nnx.clone(network("partly pruned"))
    model.norm_last.var[...] = model.norm_last.var[...].at[3].set(jnp.float32(value))
    save(tmp_path / "network", model)
    _assert_refused(tmp_path / "network", "norm_last/var holds NaN or infinity")
