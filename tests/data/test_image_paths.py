"""Which image files are meant by given paths, folders and lists."""

import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cdnv2_jax import UserError
from cdnv2_jax.data.image_paths import counts, image_files, listed_paths
from tests.tables import table


@pytest.fixture
def album(tmp_path: Path) -> list[Path]:
    """Five files in two folders, in their order."""
    files = [tmp_path / "album" / name for name in ("z.png", "a/0.png", "a/1.png", "b/0.png", "b/1.png")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return files


def test_image_files(album: list[Path], tmp_path: Path) -> None:
    """Folders in order, with the folders in them; hidden files and other files are left out, given files are taken."""
    (tmp_path / "album" / ".hidden.png").touch()
    (tmp_path / "album" / "._z.png").touch()
    (tmp_path / "album" / ".DS_Store").touch()
    (tmp_path / "album" / ".thumbnails").mkdir()
    (tmp_path / "album" / ".thumbnails" / "small.png").touch()
    (tmp_path / "album" / "__MACOSX").mkdir()
    (tmp_path / "album" / "__MACOSX" / "other.png").touch()
    for name in ("notes.txt", "1.HEIC", "2.heic", "README"):
        (tmp_path / "album" / name).touch()
    given = [tmp_path / "album" / "notes.txt", tmp_path / "album", tmp_path / "not there"]
    skipped: Counter[str] = Counter()
    assert list(image_files(given, skipped)) == [given[0], *album, given[2]]
    assert counts(skipped) == "2 .heic, 1 .txt, 1 without an ending"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no images \(.*\)$"):
        list(image_files([tmp_path / "empty"]))
    (tmp_path / "empty" / "1.HEIC").touch()
    with pytest.raises(UserError, match=r"empty holds no images \(.*\), only 1 \.heic$"):
        list(image_files([tmp_path / "empty"]))


def test_endings(tmp_path: Path) -> None:
    endings = ("jpg", "JPEG", "png", "BMP", "webp", "gif", "tif", "TIFF", "Tiff", "ppm", "PGM")
    for ending in endings:
        (tmp_path / f"{ending}.{ending}").touch()
    assert {path.stem for path in image_files([tmp_path])} == set(endings)


def test_links(album: list[Path], tmp_path: Path) -> None:
    """To files and folders, into a circle, to nothing; a pipe that looks like an image is not waited for."""
    links = tmp_path / "links"
    links.mkdir()
    os.symlink(tmp_path / "album", links / "album")
    os.symlink(tmp_path / "album", links / "again")
    os.symlink(links, tmp_path / "album" / "back")
    os.symlink(album[0], links / "one.png")
    os.symlink("nowhere", links / "gone.png")
    os.mkfifo(links / "pipe.png")
    through = [links / "again" / path.relative_to(tmp_path / "album") for path in album]
    found = [links / "gone.png", links / "one.png", *through]
    skipped: Counter[str] = Counter()
    assert list(image_files([links], skipped)) == found
    assert counts(skipped) == "2 linked again, 1 .png"  # links/album, again/back; the pipe


def test_what_cannot_be_searched(album: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised, or put on a list so that the other images are not lost."""
    (tmp_path / "empty").mkdir()
    scandir: Callable[..., Any] = os.scandir

    def locked(path: str) -> Any:
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    refused: list[UserError] = []
    found = list(image_files([tmp_path / "empty", tmp_path / "album"], refused=refused))
    assert found == [album[0], *album[3:]]
    empty, denied = map(str, refused)
    assert empty.startswith(f"{tmp_path}/empty holds no images")
    assert denied == f"{tmp_path}/album/a cannot be read: Permission denied"
    with pytest.raises(UserError, match="album/a cannot be read: Permission denied"):
        list(image_files([tmp_path / "album"]))


LISTS = {
    "lines": (b"a.png\nb c.png\n", ["a.png", "b c.png"]),
    "no end": (b"a.png\nb.png", ["a.png", "b.png"]),
    "Windows": (b"\xef\xbb\xbfa.png\r\n\r\nb.png\r\n", ["a.png", "b.png"]),
    "zeros": (b"a\nb.png\0\0 c\r\n\0" + 30 * b"d" + b"\0", ["a\nb.png", " c\r\n", 30 * "d"]),
    "any bytes": (b"\xff.png\n", ["\udcff.png"]),
    "names like formats": (b"BM.bmp\nRIFF.webp\n", ["BM.bmp", "RIFF.webp"]),
    "GIF89a": (b"GIF89a.gif\0GIF89a\0", ["GIF89a.gif", "GIF89a"]),
    "nothing": (b"", []),
    "empty lines": (b"\n \n\r\n", []),
}


@table("content, expected", LISTS.values())
def test_lists(content: bytes, expected: list[str]) -> None:
    """Whatever the pieces in which they arrive."""

    class Pipe(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return self.read(16)

    for stream in (io.BytesIO(content), Pipe(content)):
        assert list(listed_paths(stream)) == expected


@table("kind", ["JPEG", "PNG", "GIF", "WebP", "TIFF", "BMP"])
def test_images_are_no_lists(kind: str) -> None:
    image = io.BytesIO()
    Image.new("RGB", (300, 2)).save(image, kind)
    image.seek(0)
    with pytest.raises(UserError, match=f"standard input is a {kind} image, but - takes paths"):
        list(listed_paths(image))


def test_endless_lines() -> None:
    with pytest.raises(UserError, match="standard input is not a list of paths"):
        for _ in listed_paths(io.BytesIO(bytes(1) + b"x" * 1_000_000)):
            pass
