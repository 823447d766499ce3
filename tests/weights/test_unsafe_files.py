"""Files that nobody vouches for: nothing in them runs, and each is refused with a UserError that names it."""

import argparse
import io
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cdnv2_jax import UserError
from cdnv2_jax.weights import torch_reading
from cdnv2_jax.weights.torch_reading import read_checkpoint
from tests.tables import table
from tests.twin_models import SMALL_V1
from tests.weights.official_files import training_file, twin_in_form


class _Trap:
    """Unpickling it creates a file: what any code at all could do."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


class _Eval:
    """The same by way of a builtin."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


def _zip_file(contents: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


def _old_file(contents: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


WRITERS = {"zip": _zip_file, "old serialisation": _old_file, "plain pickle": pickle.dumps}


@table("trap", [_Trap, _Eval])
@table("hidden_in", ["the file itself", "a field", "the arguments", "the state_dict"])
@table("write", WRITERS)
def test_code_does_not_run(
    write: Callable[[object], bytes], hidden_in: str, trap: Callable[[Path], object], tmp_path: Path
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "trap.pth.tar"
    bomb = trap(marker)
    contents = {
        "the file itself": bomb,
        "a field": {"state_dict": {"x": torch.zeros(1)}, "metric": bomb},
        "the arguments": {"state_dict": {"x": torch.zeros(1)}, "args": argparse.Namespace(lr=bomb)},
        "the state_dict": {"state_dict": {"x": bomb}},
    }[hidden_in]
    path.write_bytes(write(contents))
    with pytest.raises(UserError, match=r"trap.pth.tar"):
        read_checkpoint(path)
    assert not marker.exists()


@table("trap", [_Trap, _Eval])
def test_the_traps_are_real(trap: Callable[[Path], object], tmp_path: Path) -> None:
    """An ordinary load does run them."""
    marker = tmp_path / "ran"
    torch.load(io.BytesIO(_zip_file({"metric": trap(marker)})), weights_only=False)
    assert marker.exists()


def test_refusal_names_what_would_run(tmp_path: Path) -> None:
    path = tmp_path / "trap.pth.tar"
    path.write_bytes(_zip_file({"metric": _Eval(tmp_path / "ran")}))
    with pytest.raises(UserError, match=r"asks for .*eval.* would run code"):
        read_checkpoint(path)


def test_harmless_class_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "object.pth.tar"
    path.write_bytes(_zip_file({"epoch": random.Random(0)}))
    with pytest.raises(UserError, match=r"asks for random.Random"):
        read_checkpoint(path)


@pytest.fixture(scope="module")
def whole_file() -> bytes:
    twin = twin_in_form(SMALL_V1, 1)
    return _zip_file(training_file(twin, ema=None, arch="condensenet_50"))


@table("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_file(share: float, whole_file: bytes, tmp_path: Path) -> None:
    _assert_refused(whole_file[: int(share * len(whole_file))], tmp_path)


def test_file_whose_beginning_is_lost(whole_file: bytes, tmp_path: Path) -> None:
    _assert_refused(whole_file[len(whole_file) // 3 :], tmp_path)


def _stored_zip(member: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, "hello")
    return buffer.getvalue()


NO_CHECKPOINTS = {
    "random bytes": random.Random(0).randbytes(5000),
    "text": b"weights of cdnv2_a, 64.4 % top-1\n" * 20,
    "JSON": b'{"state_dict": {}}\n',
    "an empty archive": b"PK\5\6" + bytes(18),
    "an archive's end with nothing before it": bytes(100) + b"PK\5\6" + bytes(12) + b"\xff\xff\xff\0" + bytes(2),
    "an archive of something else": _stored_zip("hello.txt"),
    "an archive with half a checkpoint": _stored_zip("archive/data.pkl"),
    "a list": _zip_file([torch.zeros(3)]),
    "a tensor": _zip_file(torch.zeros(3)),
    "a number": _zip_file(3),
    "a module": _zip_file(torch.nn.Linear(2, 2)),
}


@table("content", NO_CHECKPOINTS)
def test_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    _assert_refused(content, tmp_path)


def test_damaged_in_some_bytes(whole_file: bytes, tmp_path: Path) -> None:
    """Wherever the damage falls: either it is noticed, or it fell on bytes that do not matter to the reader."""
    chance, directory = random.Random(0), whole_file.rfind(b"PK\1\2")
    for attempt in range(60):
        damaged = bytearray(whole_file)
        # Every other time within the archive's directory, where most of the structure is.
        start = directory - 2000 if attempt % 2 else 0
        for _ in range(chance.choice((1, 5, 50))):
            damaged[chance.randrange(start, len(damaged))] = chance.randrange(256)
        path = tmp_path / "damaged.pth.tar"
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except UserError as error:
            assert str(path) in str(error)


def test_compressed_archive(whole_file: bytes, tmp_path: Path) -> None:
    """PyTorch reads it all the same, and a small compressed file could unpack to any size."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole_file)) as stored, zipfile.ZipFile(buffer, "w") as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name), zipfile.ZIP_DEFLATED)
    _assert_refused(buffer.getvalue(), tmp_path, "compressed")


def test_file_too_large(whole_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_reading, "LARGEST_FILE", len(whole_file) - 1)
    _assert_refused(whole_file, tmp_path, "more than any checkpoint")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory"):
        read_checkpoint(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_checkpoint(tmp_path / "missing.pth.tar")


def _assert_refused(content: bytes, tmp_path: Path, complaint: str = "") -> None:
    path = tmp_path / "file.pth.tar"
    path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        read_checkpoint(path)
    assert str(path) in str(refusal.value)
    assert complaint in str(refusal.value)
