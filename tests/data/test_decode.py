"""Decoding beside Pillow; a bank of unusual and of broken images."""

import io
import pickle
import random
import struct
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

import cdnv2_jax
from cdnv2_jax import UserError
from cdnv2_jax.data import decode as decoding
from cdnv2_jax.data.decode import BrokenImage, decode, encoded_size
from cdnv2_jax.errors import RunFailure
from tests.data.photographs import encoded, photographs


def _picture() -> Image.Image:
    return Image.fromarray(photographs(61, 43)[0])


def _palette(transparency: object = None) -> bytes:
    options = {} if transparency is None else {"transparency": transparency}
    return encoded(_picture().quantize(50), "PNG", **options)


def _exif(orientation: object) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _chunk_moved_to_the_end(png: bytes, kind: bytes) -> bytes:
    start = png.index(kind) - 4
    end = start + 12 + int.from_bytes(png[start : start + 4], "big")
    return png[:start] + png[end:-12] + png[start:end] + png[-12:]


def _described(orientation: int) -> PngImagePlugin.PngInfo:
    """XMP, as some programs write it instead of EXIF data."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", f'<rdf:Description tiff:Orientation="{orientation}"/>')
    return text


def _animated(kind: str) -> bytes:
    others = [_picture().rotate(90 * turns) for turns in (1, 2)]
    return encoded(_picture(), kind, save_all=True, append_images=others)


def _tiff(tags: dict[int, tuple[int, ...]], levels: bytes) -> bytes:
    """An uncompressed little-endian TIFF file of 3 × 2 pixels, of kinds that Pillow does not write."""
    entries, values = [], b""
    whole = {256: (3,), 257: (2,), 259: (1,), 273: (0,), 278: (2,), 279: (len(levels),)} | tags
    behind = 8 + 2 + 12 * len(whole) + 4
    whole[273] = (behind + 2 * sum(len(value) for value in whole.values() if len(value) > 2),)
    for tag, value in sorted(whole.items()):
        packed = struct.pack(f"<{len(value)}H", *value)
        if len(packed) > 4:
            values, packed = values + packed, struct.pack("<I", behind + len(values))
        entries.append(struct.pack("<HHI", tag, 3, len(value)) + packed.ljust(4, b"\0"))
    return b"".join([b"II*\0\x08\0\0\0", struct.pack("<H", len(whole)), *entries, bytes(4), values, levels])


READABLE = {
    "jpeg": lambda: encoded(_picture(), quality=90),
    "jpeg, no subsampling": lambda: encoded(_picture(), subsampling=0),
    "jpeg, grey": lambda: encoded(_picture().convert("L")),
    "jpeg, CMYK": lambda: encoded(_picture().convert("CMYK")),
    "jpeg, progressive": lambda: encoded(_picture(), progressive=True),
    "jpeg, restart markers": lambda: encoded(_picture(), restart_marker_blocks=2),
    "jpeg, RGB inside": lambda: encoded(_picture(), keep_rgb=True),
    "jpeg, turned": lambda: encoded(_picture(), exif=_exif(6)),
    "jpeg, grey, turned": lambda: encoded(_picture().convert("L"), exif=_exif(7)),
    "jpeg, CMYK, turned": lambda: encoded(_picture().convert("CMYK"), exif=_exif(5)),
    "jpeg, an orientation that does not exist": lambda: encoded(_picture(), exif=_exif(9)),
    "jpeg, a text as orientation": lambda: encoded(
        _picture(), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x026\0\0\0\0\0\0\0"
    ),
    "jpeg, bytes behind it": lambda: encoded(_picture()) + b"more",
    "jpeg, another behind it": lambda: encoded(_picture()) + encoded(_picture().rotate(90)),
    "jpeg, a comment with markers in it": lambda: encoded(_picture(), comment=b"\xff\xda\xff\xd9\xff\xc0"),
    "jpeg, 1x1": lambda: encoded(Image.new("RGB", (1, 1), (10, 200, 30))),
    "png": lambda: encoded(_picture(), "PNG"),
    "png, grey": lambda: encoded(_picture().convert("L"), "PNG"),
    "png, grey and alpha": lambda: encoded(_picture().convert("LA"), "PNG"),
    "png, black and white": lambda: encoded(_picture().convert("1"), "PNG"),
    "png, alpha": lambda: encoded(_picture().convert("RGBA"), "PNG"),
    "png, palette": _palette,
    "png, palette, one transparent": lambda: _palette(3),
    "png, palette, transparency of each": lambda: _palette(bytes(range(50))),
    "png, turned": lambda: encoded(_picture(), "PNG", exif=_exif(8)),
    "png, turned, EXIF after the pixels": lambda: _chunk_moved_to_the_end(
        encoded(_picture(), "PNG", exif=_exif(5)), b"eXIf"
    ),
    "png, turned by XMP": lambda: encoded(_picture(), "PNG", pnginfo=_described(6)),
    "png, palette, turned": lambda: encoded(_picture().quantize(50), "PNG", exif=_exif(3)),
    "png, 1x1": lambda: encoded(Image.new("L", (1, 1), 9), "PNG"),
    "bmp": lambda: encoded(_picture(), "BMP"),
    "webp": lambda: encoded(_picture(), "WEBP"),
    "gif": lambda: encoded(_picture(), "GIF"),
    "gif, animated": lambda: _animated("GIF"),
    "png, animated": lambda: _animated("PNG"),
    "webp, animated": lambda: _animated("WEBP"),
    "webp, alpha": lambda: encoded(_picture().convert("RGBA"), "WEBP", lossless=True),
    "tiff": lambda: encoded(_picture(), "TIFF"),
    "tiff, several pages": lambda: _animated("TIFF"),
    "tiff, CMYK": lambda: encoded(_picture().convert("CMYK"), "TIFF"),
    "tiff, YCbCr": lambda: encoded(_picture().convert("YCbCr"), "TIFF", compression="jpeg"),
    "tiff, palette and alpha": lambda: encoded(_picture().quantize(50).convert("PA"), "TIFF"),
    "tiff, black and white": lambda: encoded(_picture().convert("1"), "TIFF", compression="group4"),
    "tiff, 16 bits a channel": lambda: _tiff({258: (16,) * 3, 262: (2,), 277: (3,)}, bytes(range(36))),
    "ppm": lambda: encoded(_picture(), "PPM"),
    "pgm": lambda: encoded(_picture().convert("L"), "PPM"),
    "ppm, as text": lambda: b"P3\n# by hand\n2 1\n255\n1 2 3 250 251 252\n",
    "pbm": lambda: encoded(_picture().convert("1"), "PPM"),
}


def _as_pillow_reads(data: bytes, upright: bool = False) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(data))
        return np.asarray((ImageOps.exif_transpose(image) if upright else image).convert("RGB"))


def _assert_as_pillow(data: bytes) -> None:
    for upright in (True, False):
        expected = _as_pillow_reads(data, upright)
        found = decode(data, "x", upright=upright)
        assert found.dtype == np.uint8 and found.flags.writeable and found.flags.c_contiguous
        np.testing.assert_array_equal(found, expected)
        assert encoded_size(data, "x", upright=upright) == expected.shape[:2]


@pytest.mark.parametrize("file", READABLE.values(), ids=READABLE)
def test_as_pillow(file: Callable[[], bytes]) -> None:
    """Bit for bit, and without a warning where Pillow has one."""
    _assert_as_pillow(file())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_orientation(kind: str) -> None:
    """The corners, named by hand, are where the EXIF standard puts them, and all pixels where Pillow does."""
    stored = [[(255, 0, 0)] * 20 + [(0, 255, 0)] * 20] * 10 + [[(0, 0, 255)] * 20 + [(255, 255, 0)] * 20] * 10
    shown = {1: "rgby", 2: "gryb", 3: "ybgr", 4: "byrg", 5: "rbgy", 6: "bryg", 7: "ygbr", 8: "gyrb"}
    for orientation, expected in shown.items():
        data = encoded(np.array(stored, np.uint8), kind, exif=_exif(orientation))
        _assert_as_pillow(data)
        pixels = decode(data, "x")
        corners = [pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]]
        names = {(1, 0, 0): "r", (0, 1, 0): "g", (0, 0, 1): "b", (1, 1, 0): "y"}
        assert "".join(names[tuple((corner > 100).astype(int))] for corner in corners) == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_data_say_nothing(kind: str) -> None:
    """Where Pillow's own `exif_transpose` may raise."""
    for damage in (b"Exif\0\0MM\0*\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"", bytes(40)):
        data = encoded(_picture(), kind, exif=damage)
        np.testing.assert_array_equal(decode(data, "x"), _as_pillow_reads(data))
        assert encoded_size(data, "x") == (43, 61)


def test_photographs() -> None:
    for photograph in photographs():
        for quality in (30, 90, 100):
            data = encoded(photograph, quality=quality)
            np.testing.assert_array_equal(decode(data, "x"), Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled(kind: str) -> None:
    levels = np.array([[0, 255, 256, 511, 512, 32767, 32768, 65535]], np.uint16)
    found = decode(encoded(Image.fromarray(levels), kind), "x")
    expected = np.repeat(np.array([[0, 0, 1, 1, 2, 127, 128, 255]], np.uint8)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(found, expected)
    found = decode(encoded(Image.fromarray(levels), kind, exif=_exif(6)), "x")
    np.testing.assert_array_equal(found, expected.swapaxes(0, 1))


GREY = {262: (1,), 277: (1,)}
LEVELS = np.array([[0, 255, 256], [511, 32768, 65535]])
UPPER = LEVELS >> 8

DEEP = {
    "tiff, 12 bits": lambda: _tiff(GREY | {258: (12,)}, bytes.fromhex("00000f0100" + "01f800fff0")),
    "tiff, 16 bits, big-endian": lambda: encoded(Image.fromarray(LEVELS.astype(">u2")), "TIFF"),
    "pgm, 16 bits": lambda: b"P5 3 2 65535\n" + LEVELS.astype(">u2").tobytes(),
    "pgm, 16 bits, as text": lambda: ("P2 3 2 65535 " + " ".join(map(str, LEVELS.flat))).encode(),
}


@pytest.mark.parametrize("file", DEEP.values(), ids=DEEP)
def test_deep_greyscale(file: Callable[[], bytes]) -> None:
    np.testing.assert_array_equal(decode(file(), "x"), np.repeat(UPPER.astype(np.uint8)[:, :, None], 3, axis=2))


NO_SCALE = {
    "tiff, floating-point": lambda: encoded(Image.fromarray(np.ones((2, 3), np.float32)), "TIFF"),
    "tiff, 32 bits": lambda: encoded(Image.fromarray(np.ones((2, 3), np.int32)), "TIFF"),
    "tiff, 16 bits, signed": lambda: _tiff(GREY | {258: (16,), 339: (2,)}, bytes(12)),
    "tiff, 16 bits, white is 0": lambda: _tiff({258: (16,), 262: (0,), 277: (1,)}, bytes(12)),
    "pfm": lambda: b"Pf\n3 2\n-1.0\n" + np.ones(6, "<f4").tobytes(),
}


@pytest.mark.parametrize("file", NO_SCALE.values(), ids=NO_SCALE)
def test_levels_without_a_scale_are_refused(file: Callable[[], bytes]) -> None:
    with pytest.raises(BrokenImage, match="its levels have no known scale: save it with 8 or 16 bits"):
        decode(file(), "x")


def _halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _bomb() -> bytes:
    """A small file of 14,000² pixels."""
    return encoded(Image.new("1", (14_000, 14_000)), "PNG")


BROKEN = {
    "empty": lambda: b"",
    "text": lambda: b"this is no image",
    "one byte": lambda: b"\xff",
    "only the start of a jpeg": lambda: b"\xff\xd8",
    "only the ends of a jpeg": lambda: b"\xff\xd8\xff\xd9",
    "jpeg cut in two": lambda: _halved(encoded(photographs()[0])),
    "jpeg cut in two, with an end mark": lambda: _halved(encoded(photographs()[0]))[:200] + b"\xff\xd9",
    "jpeg without its last bytes": lambda: encoded(photographs()[0])[:-400],
    "progressive jpeg cut in two": lambda: _halved(encoded(photographs()[0], progressive=True)),
    "CMYK jpeg cut in two": lambda: _halved(encoded(_picture().convert("CMYK"), quality=95)),
    "png cut in two": lambda: _halved(encoded(_picture(), "PNG")),
    "webp cut in two": lambda: _halved(encoded(_picture(), "WEBP")),
    "bmp cut in two": lambda: _halved(encoded(_picture(), "BMP")),
    "bomb": _bomb,
    "page of HTML": lambda: b"<!DOCTYPE html><html><body>404</body></html>\n",
}


@pytest.mark.parametrize("file", BROKEN.values(), ids=BROKEN)
def test_broken(file: Callable[[], bytes]) -> None:
    with pytest.raises(
        BrokenImage, match=r"^train/a/b\.jpg cannot be read as an image \(.+\): (fix or remove|shrink) it"
    ):
        decode(file(), "train/a/b.jpg")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "PPM"])
def test_largest_size(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """61 × 43 = 2,623 pixels; also where Pillow's own limit is lower."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = encoded(_picture(), kind)
    for read in (decode, encoded_size):
        with pytest.raises(BrokenImage, match=r"more than 0\.002622 megapixels\).*config\.data\.max_megapixels"):
            read(data, "x", max_megapixels=0.002622)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read(data, "x", max_megapixels=0.002623)


FOREIGN = {
    b"": "it is empty",
    b"\0\0\0\x18ftypheic\0\0\0\0": "it is a HEIC or AVIF image, or a video.*: convert it to JPEG",
    b"\xc5\xd0\xd3\xc6\x1e\0\0\0": "EPS files are programs.*: convert it to PNG",
    b"\xd7\xcd\xc6\x9a": "unknown format",  # a Windows metafile
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n": "EPS files are programs.*: convert it to PNG",
    b"GIF89a": "cannot be read as an image",
    b"<html></html>": "unknown format",
}


@pytest.mark.parametrize("file", FOREIGN)
def test_says_what_it_is_instead(file: bytes) -> None:
    with pytest.raises(BrokenImage, match=FOREIGN[file]) as error:
        decode(file, "x.jpg")
    assert "BytesIO" not in str(error.value)


def test_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow lets Ghostscript run PostScript, whatever a file is called; only one function opens images."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "gs").write_text("#!/bin/sh\n/usr/bin/touch started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    for read in (decode, encoded_size):
        with pytest.raises(BrokenImage, match="EPS files are programs"):
            read(script, "photograph.jpg")
    assert not Path("started").exists()
    with pytest.raises(UnidentifiedImageError), Image.open(io.BytesIO(script)) as opened:
        opened.load()  # what starts it
    assert Path("started").exists()
    sources = Path(cdnv2_jax.__file__).parent.rglob("*.py")
    assert [file.name for file in sources if "Image.open(" in file.read_text(encoding="utf-8")] == ["decode.py"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_size_from_the_header(kind: str) -> None:
    """Also of a file whose pixels are missing."""
    whole = encoded(np.zeros((31, 47, 3), np.uint8), kind)
    assert encoded_size(whole, "x") == encoded_size(whole[:-4], "x") == (31, 47)
    with pytest.raises(BrokenImage, match="this one cannot be read"):
        encoded_size(b"no image", "this one")


def test_broken_image_is_the_users_and_can_be_pickled() -> None:
    error = BrokenImage("a.jpg", "cut off")
    assert isinstance(error, UserError)
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied)) == (BrokenImage, str(error))


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damage that it reads all the same
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF"])
def test_damage_is_read_as_pillow_reads_it_or_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it trips; also where OpenCV, given it, would fill in grey."""
    # A header whose size is damaged would make it reserve gigabytes.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    whole, chance = encoded(_picture(), kind), random.Random(0)
    outcomes = set()
    for attempt in range(120):
        damaged = bytearray(whole[: chance.randrange(len(whole))] if attempt % 3 == 0 else whole)
        reach = len(damaged) if attempt % 2 else 200
        for _ in range(min(len(damaged), chance.choice((1, 4, 20)))):
            damaged[chance.randrange(min(len(damaged), reach))] = chance.randrange(256)
        data = bytes(damaged)
        try:
            expected = _as_pillow_reads(data)
        except Exception:  # Pillow raises all kinds of errors
            expected = None
            with pytest.raises(BrokenImage, match=r"^x.img cannot") as error:
                decode(data, "x.img", max_megapixels=0.1)
            assert "\n" not in str(error.value)
        else:
            np.testing.assert_array_equal(decode(data, "x.img", max_megapixels=0.1), expected)
        outcomes.add(expected is None)
    assert outcomes == {True, False} or (kind, outcomes) == ("PNG", {True})  # which has checksums


def test_threads_leave_the_filters_of_warnings_alone() -> None:
    data = [_palette(bytes(range(50))), encoded(_picture()), b""]
    before = list(warnings.filters)

    def work() -> None:
        for number in range(60):
            try:
                decode(data[number % 3], "x")
            except BrokenImage:
                assert number % 3 == 2

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


@pytest.mark.parametrize("where", ["open", "_decode_jpeg"])
def test_no_memory_is_not_the_images_fault(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not skipped as unreadable, which would change the result."""

    def fail(*_, **__) -> None:
        raise MemoryError

    file = encoded(_picture())
    monkeypatch.setattr(*((Image, "open") if where == "open" else (decoding, "_decode_jpeg")), fail)
    with pytest.raises(RunFailure, match=r"no memory is left to decode a\.jpg: free some"):
        decode(file, "a.jpg")
