"""Positions of members against Python's tarfile, and tars that are cut, damaged or hostile."""

import io
import pickle
import tarfile
from pathlib import Path

import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.sources.tar_members import Member, TarFile
from tests.data.sources.imagenet_archives import tar_bytes

FILES = {"a.txt": b"one", "empty": b"", "folder/block": b"x" * 512, "large": bytes(range(256)) * 10}


def _tar(directory: Path, content: bytes) -> TarFile:
    path = directory / "some.tar"
    path.write_bytes(content)
    return TarFile(path)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_where_tarfile_finds_them(form: int, tmp_path: Path) -> None:
    names = ["ü" * 60 + "/" + "x" * 60, "d" * 90 + "/" + "y" * 90, "z.jpg"]  # two that need more than one field
    content = tar_bytes({**FILES, **dict.fromkeys(names, b"x")}, form=form)
    tar = _tar(tmp_path, content)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = [Member(member.name, member.offset_data, member.size) for member in archive if member.isreg()]
    members = list(tar.members())
    assert members == expected
    for member, file in zip(members, FILES.items(), strict=False):
        assert tar.member(member.offset, member.size) == file


def test_sizes_in_binary(tmp_path: Path) -> None:
    """As GNU tar stores what eleven octal digits cannot."""
    content = bytearray(tar_bytes({"a": b"12345"}))
    content[124:136] = b"\x80" + (5).to_bytes(11, "big")
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + sum(content[156:512]) + 8 * 32)
    assert list(_tar(tmp_path, bytes(content)).members()) == [Member("a", 512, 5)]


def test_only_regular_files(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("x")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert list(_tar(tmp_path, stream.getvalue()).members()) == []


@pytest.mark.parametrize("kept", [0, 100, 512, 513, 1024, 1536, 2048, 2560])
def test_cut_anywhere(kept: int, tmp_path: Path) -> None:
    """Also where a file ends: tarfile would take that for the whole archive. The files end at byte 3072."""
    content = tar_bytes({"a": b"x" * 512, "b": b"y" * 512, "c": b"z" * 512})
    with pytest.raises(UserError, match=r"some\.tar ends .* download it again"):
        list(_tar(tmp_path, content[:kept]).members())


@pytest.mark.parametrize("byte", [0, 130, 150])
def test_damaged_header(byte: int, tmp_path: Path) -> None:
    content = bytearray(tar_bytes(FILES))
    content[byte] ^= 0x55
    with pytest.raises(UserError, match="damaged at byte 0"):
        list(_tar(tmp_path, bytes(content)).members())


def test_header_without_a_name(tmp_path: Path) -> None:
    """Only a block of nothing but zeros is an end."""
    content = bytearray(tar_bytes(FILES))
    content[:100] = bytes(100)
    with pytest.raises(UserError, match="damaged at byte 0"):
        list(_tar(tmp_path, bytes(content)).members())


def test_negative_size(tmp_path: Path) -> None:
    """Would send a reader backwards, for ever."""
    content = bytearray(tar_bytes({"a": b"12345"}))
    content[124:136] = b"-0000001000\0"
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + sum(content[156:512]) + 8 * 32)
    with pytest.raises(UserError, match="damaged"):
        list(_tar(tmp_path, bytes(content)).members())


def test_no_tar(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a tar"):
        list(_tar(tmp_path, b"GIF89a" * 1000).members())


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        list(TarFile(tmp_path / "none.tar").members())


def test_opens_anew_after_pickling(tmp_path: Path) -> None:
    tar = _tar(tmp_path, tar_bytes(FILES))
    assert tar.member(512, 3) == ("a.txt", b"one")
    assert pickle.loads(pickle.dumps(tar)).member(512, 3) == ("a.txt", b"one")
