"""The cache is used while it is right, and harmless when it is not."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.sources import files
from cdnv2_jax.data.sources.files import cached_arrays
from cdnv2_jax.files import replacing

ARRAYS = {"numbers": np.arange(5), "names": np.array(["a", "bc"])}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tmp_path / "data" / "large.tar"
    path.parent.mkdir()
    path.write_bytes(b"contents")
    return path


class Builder:
    """Counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        return ARRAYS


def _read(file: Path, builder: Callable[[], dict[str, np.ndarray]], right: bool = True) -> None:
    arrays = cached_arrays(file, builder, lambda arrays: right)
    for name, expected in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], expected)


def test_built_once(file: Path) -> None:
    builder = Builder()
    for _ in range(3):
        _read(file, builder)
    assert builder.calls == 1
    assert file.with_name("large.tar.index.npz").exists()


def _grow(file: Path) -> None:
    file.write_bytes(b"other contents")


def _touch(file: Path) -> None:
    os.utime(file, ns=(1, 1))


def _corrupt(file: Path) -> None:
    file.with_name("large.tar.index.npz").write_bytes(b"PK\x03\x04 nonsense")


def _cut(file: Path) -> None:
    index = file.with_name("large.tar.index.npz")
    index.write_bytes(index.read_bytes()[:-100])


def _pickled(file: Path) -> None:
    np.savez(file.with_name("large.tar.index.npz"), numbers=np.array([{}], object))


def _compressed(file: Path) -> None:
    index = file.with_name("large.tar.index.npz")
    with np.load(index) as arrays:
        np.savez_compressed(index, **arrays)


@pytest.mark.parametrize("change", [_grow, _touch, _corrupt, _cut, _pickled, _compressed])
def test_built_anew(change: Callable[[Path], None], file: Path) -> None:
    builder = Builder()
    _read(file, builder)
    change(file)
    _read(file, builder)
    assert builder.calls == 2
    _read(file, builder)
    assert builder.calls == 2, "what was built anew is kept"


def test_built_anew_when_it_cannot_be_right(file: Path) -> None:
    builder = Builder()
    _read(file, builder)
    _read(file, builder, right=False)
    assert builder.calls == 2


@pytest.mark.parametrize("home_too", [False, True])
def test_where_it_cannot_be_written(
    home_too: bool, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by hand: who runs the tests as root may write everywhere."""

    def refusing(path: Path):
        if path.parent == file.parent or home_too:
            raise UserError(f"{path} cannot be written: Read-only file system")
        return replacing(path)

    monkeypatch.setattr(files, "replacing", refusing)
    builder = Builder()
    for _ in range(2):
        _read(file, builder)
    assert builder.calls == (2 if home_too else 1)
    assert list(file.parent.iterdir()) == [file]
    assert len(list(tmp_path.glob("home/.cache/cdnv2_jax/large.tar.*.npz"))) == (0 if home_too else 1)
