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

from cdnv2_jax import UserError, inert_pickle
from cdnv2_jax.inert_pickle import read_plain_pickle
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


def _archive(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


ONE_TEXT = b"X" + (2**20).to_bytes(4, "little") + b"x" * 2**20 + b"q\1"
BYTES_OF_IT = b"c_codecs\nencode\nh\1X\6\0\0\0latin1\x86R"
SAME_HASH = [(number * (2**61 - 1)).to_bytes(10, "little") for number in range(2**10, 2**10 + 1100)]
AMPLIFIERS = {
    "a bytearray": b"c__builtin__\nbytearray\n\x8a\5" + (3 << 30).to_bytes(5, "little") + b"\x85R",
    "one text as bytes, again and again": b"(" + ONE_TEXT + BYTES_OF_IT * 100 + b"l",
    "lists": b"(" + b"]" * 20_100 + b"l",
    "numbers of the same hash": b"}(" + b"".join(b"\x8a\x0a%bK\1" % number for number in SAME_HASH) + b"u",
}


@table("pickled", AMPLIFIERS)
def test_a_small_file_that_takes_much_memory_or_time(
    pickled: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inert_pickle, "MOST_OPCODES", 20_000)
    _assert_refused(_archive(pickled), tmp_path, "cannot be read as tensors")
    with pytest.raises(pickle.UnpicklingError):
        read_plain_pickle(b"\x80\x02" + pickled + b".")


def test_every_bit_of_a_tensor_is_checked(tmp_path: Path) -> None:
    """PyTorch's own reader ignores the checksums that it writes."""
    content = _zip_file({"a": torch.arange(1000.0)})
    start = content.index(torch.arange(1000.0).numpy().tobytes())
    for position in (start, start + 1234, start + 3999):
        damaged = bytearray(content)
        damaged[position] ^= 16
        assert not torch.equal(torch.load(io.BytesIO(damaged))["a"], torch.arange(1000.0))
        _assert_refused(bytes(damaged), tmp_path, "Bad CRC-32")


def test_an_old_file_without_the_contents_of_its_tensors(tmp_path: Path) -> None:
    """PyTorch fills them with whatever was in memory."""
    content = _old_file({"a": torch.zeros(4, 4)})
    name = content[content.rindex(b"]q\0X") + 4 :]
    size = int.from_bytes(name[:4], "little")
    assert name[4 : 4 + size].isdigit()
    without = content[: content.rindex(b"]q\0X")] + b"]q\0."
    assert torch.load(io.BytesIO(without))["a"].shape == (4, 4)
    _assert_refused(without, tmp_path, "tensors without contents")


def test_entries_of_the_same_name(tmp_path: Path) -> None:
    buffer = io.BytesIO(_zip_file({"a": torch.zeros(3)}))
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", bytes(12))
    _assert_refused(buffer.getvalue(), tmp_path, "entries of the same name")
