"""Paths in a bucket, against the same on a disk, and what is written there."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cdnv2_jax
from cdnv2_jax.bounded_reading import read_bytes
from cdnv2_jax.buckets import BucketPath, asking
from cdnv2_jax.errors import RunFailure, UserError
from cdnv2_jax.files import bytes_under, refuse_existing, remove, write_text
from cdnv2_jax.paths import as_path, is_remote
from cdnv2_jax.weights.checkpoint import DESCRIPTION, is_checkpoint
from tests.bucket_server import BUCKET, BucketServer, bucket_server
from tests.tables import table
from tests.weights.networks import assert_same_network, network

ROOT = f"gs://{BUCKET}"


@pytest.fixture(scope="module")
def server() -> Iterator[BucketServer]:
    with bucket_server() as server:
        yield server


@table(
    "given, text",
    [
        ("gs://bucket/a/b", "gs://bucket/a/b"),
        ("GS://bucket//a/", "gs://bucket/a"),
        (Path("gs://bucket/a"), "gs://bucket/a"),  # gs:/bucket/a
        ("s3://bucket", "s3://bucket"),
        ("runs/a", "runs/a"),
        ("runs:/a", "runs:/a"),
        ("gs", "gs"),
    ],
)
def test_addresses(given: str | Path, text: str) -> None:
    path = as_path(given)
    assert str(path) == text
    assert is_remote(path) == isinstance(path, BucketPath) == (not isinstance(path, Path)) == ("://" in text)
    assert as_path(path) == path


@table(
    "given, message",
    [
        (
            "http://host/a",
            "http://host/a: paths of http:// are not supported: give one of this machine, of gs:// or s3://",
        ),
        ("s4://a", "s4://a: paths of s4:// are not supported: give one of this machine, of gs:// or s3://"),
        ("gs://", "gs:// names no bucket: give gs://BUCKET/…"),
        ("s3:/", "s3:/ names no bucket: give s3://BUCKET/…"),
    ],
)
def test_other_addresses_are_refused(given: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        as_path(given)
    assert str(error.value) == message


def test_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^gs://bucket/a needs the package gcsfs: .*pip install .*\[buckets\]'$"):
        as_path("gs://bucket/a")


TREE = {"a": b"", "b/c": b"12345", "b/d/e.txt": b"\xff\n", "b/d/f.json": b"{}"}


def test_same_answers_as_a_disk(server: BucketServer, tmp_path: Path) -> None:
    """Of everything that is there, of what is not, and after some of it is removed."""
    remote: Any = as_path(f"{ROOT}/tree")
    for name, data in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
        (remote / name).upload(tmp_path / name)
    for removed in ("none", "b/d", "a", "b"):
        for root in (remote, tmp_path):
            remove(root / removed)
        for name in ("b", "b/d", "none", "b/none", "tree", *TREE):
            here, there = tmp_path / name, remote / name
            for question in ("exists", "is_file", "is_dir"):
                expected = getattr(here, question)() and not (
                    here.is_dir() and not any(below.is_file() for below in here.rglob("*"))
                )
                assert getattr(there, question)() == expected, (name, question)
            if here.is_file():
                assert (read_bytes(there), there.stat().st_size) == (here.read_bytes(), here.stat().st_size)
        for pattern in ("*", "*.txt"):
            found = {str(path.relative_to(remote)) for path in (remote / "b" / "d").glob(pattern)}
            assert found == {str(path.relative_to(tmp_path)) for path in (tmp_path / "b" / "d").glob(pattern)}
        assert bytes_under(remote) == bytes_under(tmp_path)
    assert not remote.exists()


def test_limits_hold_in_a_bucket(server: BucketServer) -> None:
    path = as_path(f"{ROOT}/large.txt")
    write_text(path, "x" * 101)
    for place, most, reason in ((path, 100, "101 bytes"), (path.parent, 100, "directory"), (path / "no", 9, "no such")):
        with pytest.raises(ValueError, match=reason):
            read_bytes(place, most)
    with pytest.raises(UserError, match="exists: give another path"):
        refuse_existing(Path(f"{ROOT}/large.txt"), overwrite=False)


def test_network_in_a_bucket(server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved and replaced there it is the one on a disk, bit for bit.

    Cut off anywhere it is none, or the one before, and can be replaced. Also if `pathlib` has mangled the address:
    nothing is written to the directory gs: of this machine.
    """
    monkeypatch.chdir(tmp_path)
    address, uploads, upload = f"{ROOT}/network", 0, BucketPath.upload

    def cut_off(self: BucketPath, local: Path) -> None:
        nonlocal uploads
        if uploads == 0 or str(self).endswith(str(DESCRIPTION)):  # uploaded last
            raise KeyboardInterrupt
        uploads -= 1
        upload(self, local)

    def save_until(number: int, seed: int) -> None:
        nonlocal uploads
        uploads = number
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(BucketPath, "upload", cut_off)
            cdnv2_jax.save(address, network("pruned", seed), overwrite=True)

    for number in (99, 5, 1):
        save_until(number, seed=0)
        assert 0 < len(BucketPath(address).sizes()) <= number
        assert not is_checkpoint(as_path(address))
        with pytest.raises(UserError, match="is not a checkpoint"):
            cdnv2_jax.load(address)
        if number > 1:
            remove(as_path(address))
    cdnv2_jax.save(Path(address), network("pruned"), overwrite=True)
    assert_same_network(cdnv2_jax.load(address), network("pruned"))
    with pytest.raises(UserError, match="exists"):
        cdnv2_jax.save(address, network("condensed"))
    save_until(1, seed=1)
    assert_same_network(cdnv2_jax.load(address), network("pruned"))  # the one before
    save_until(99, seed=1)
    with pytest.raises(UserError, match="is not a checkpoint"):
        cdnv2_jax.load(address)
    written: list[BucketPath] = []
    with monkeypatch.context() as patch:
        patch.setattr(BucketPath, "upload", lambda self, local: (written.append(self), upload(self, local)))
        cdnv2_jax.save(address, network("condensed"), overwrite=True)
    assert_same_network(cdnv2_jax.load(Path(address)), network("condensed"))
    assert set(BucketPath(address).sizes()) == set(written)  # what was replaced is gone
    assert not list(tmp_path.iterdir())


def test_missing_bucket(server: BucketServer) -> None:
    path = as_path("gs://no-such-bucket/a")
    assert not path.exists()
    with pytest.raises(UserError, match=r"^gs://no-such-bucket/a cannot be written: there is no bucket no-such-bucket"):
        write_text(path, "")


@table(
    "error, expected, words",
    {
        "forbidden": (OSError("Forbidden: https://…\nno access"), UserError, "permissions"),
        "no credentials": (ValueError("Anonymous credentials"), UserError, "credentials"),
        "refused": (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), RunFailure, "start the same command again"),
        "timeout": (TimeoutError(), RunFailure, "TimeoutError"),
    },
)
def test_failures_are_one_line(error: Exception, expected: type[Exception], words: str) -> None:
    path = as_path("gs://bucket/a")
    assert is_remote(path)
    with pytest.raises(expected, match=words) as raised, asking(path):
        raise error
    assert str(raised.value).startswith("gs://bucket/a") and "\n" not in str(raised.value)
