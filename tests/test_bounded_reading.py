"""Files of unknown origin: what would block, or take far more memory than its size, is refused with the reason."""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from cdnv2_jax import UserError
from cdnv2_jax.bounded_reading import MOST_BYTES, parse_json, read_json
from cdnv2_jax.commands.arguments import read_class_names
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.data.sources.files import read_from_archive, read_from_folder
from cdnv2_jax.data.sources.tar_members import TarFile
from cdnv2_jax.data.sources.tfds import read_json as read_tfds_json
from cdnv2_jax.detection.data.coco_json import read_coco
from cdnv2_jax.training.records import read_metrics
from cdnv2_jax.weights.open import open_weights
from cdnv2_jax.weights.programs import read_exported, read_stablehlo_metadata
from tests.tables import table

HOSTILE = {
    "another value": (b"[1]", "not a JSON object"),
    "cut": (b'{"a": ', "not JSON"),
    "no text": (b'{"a": "\xff"}', "not text in UTF-8"),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "a long number": (b'{"a": ' + b"9" * 5000 + b"}", "4300 digits"),
    "a key twice": (b'{"a": {"b": 1, "c": 2, "b": 3}}', "the key 'b' twice"),
    "a key often": (b"{" + b'"a": 1,' * 100_000 + b'"a": 1}', "the key 'a' twice"),
    "nothing but lists": (b'{"a": [' + b"[]," * 1_100_000 + b"0]}", "more lists and objects than any data"),
}


@table("content, reason", HOSTILE)
def test_hostile_json(content: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_json(file)


@table("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_json_of_every_encoding(encoding: str) -> None:
    assert parse_json('{"é": [1, null]}'.encode(encoding)) == {"é": [1, None]}


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.touch()
    os.truncate(file, 1 << 40)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"more than the {MOST_BYTES:,} allowed"):
        read_json(file)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_checkpoint_with_a_pipe_in_it(tmp_path: Path) -> None:
    for part in ("arrays", "description"):
        (tmp_path / part).mkdir()
    os.mkfifo(tmp_path / "arrays" / "manifest.ocdbt")
    with pytest.raises(UserError, match=r"manifest\.ocdbt is a pipe"):
        open_weights(tmp_path)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "class names": ("names.txt", read_class_names),
    "a config": ("config.json", lambda path: read_config(str(path), [])),
    "a PyTorch file": ("a.pth", open_weights),
    "safetensors": ("a.safetensors", open_weights),
    "StableHLO": ("a.stablehlo", read_exported),
    "metadata beside it": ("a.stablehlo.json", lambda path: read_stablehlo_metadata(path.with_suffix(""))),
    "metrics": ("metrics.jsonl", lambda path: read_metrics(path.parent)),
    "a data set's metadata": ("dataset_info.json", read_tfds_json),
    "COCO's annotations": ("a.json", lambda path: read_coco(path.parent, "train", path.name)),
    "a tar": ("a.tar", lambda path: list(TarFile(path).members())),
    "a packed tar": ("a.tar.gz", lambda path: read_from_archive(path, {"a": 1})),
    "a file of a data set": ("a.bin", lambda path: read_from_folder(path.parent, {path.name: 1})),
}


@table("name, read", READERS)
def test_pipes_and_directories_are_not_opened(
    name: str, read: Callable[[Path], object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    for make in (os.mkfifo, os.mkdir):
        path = tmp_path_factory.mktemp("place") / name
        make(path)
        with pytest.raises(UserError, match=name):
            read(path)
