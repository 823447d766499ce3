"""Tars of WebDataset: every sample at once and in any order, as the library reads them one after the other."""

import gc
import shutil
from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.source import Source, Split
from cdnv2_jax.data.sources.webdataset import read_webdataset
from tests.data.sources.imagenet_archives import JPEG
from tests.data.sources.webdataset_tars import LABELS, image, write_tar, write_tars


def _contents(source: Source) -> list[tuple[int, bytes]]:
    samples = [source[index] for index in range(len(source))]
    return [(sample.label, sample.image) for sample in samples]


@pytest.mark.parametrize("repetition", ["first", "from the cache"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_images_and_labels(split: Split, repetition: str, tmp_path: Path) -> None:
    directory = write_tars(tmp_path)
    if repetition == "from the cache":
        read_webdataset(directory, split)
        assert len(list(directory.glob(f"photos-{split}-*.index.npz"))) == len(list(directory.glob(f"*-{split}-*.tar")))
    source = read_webdataset(directory, split)
    assert source.class_names == ["0", "1", "2"]
    assert _contents(source) == [(label, image(split, index)) for index, label in enumerate(LABELS[split])]
    assert source[1].name == f"{directory}/photos-{split}-000000.tar/000001.jpg"
    assert source.remarks == []


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_library_agrees(tmp_path: Path) -> None:
    library = pytest.importorskip("webdataset")
    directory = write_tars(tmp_path)
    write_tar(
        directory / "photos-train-000003.tar",
        {"a/b.c.jpg": JPEG, "a/b.cls": b"1", "a.b/c.JPG": JPEG, "a.b/c.cls": b"2"},
    )
    paths = [str(path) for path in sorted(directory.glob("photos-train-*.tar"))]
    read = list(library.WebDataset(paths, shardshuffle=False, empty_check=False))
    gc.collect()  # the library leaves files open, which must not fail another test
    expected = [(int(sample["cls"]), sample["jpg"]) for sample in read if "jpg" in sample]
    assert _contents(read_webdataset(directory, "train")) == expected
    assert len(expected) == len(LABELS["train"]) + 1


LABEL_FILES = {
    "numbers": ({"cls": b"2"}, {"cls.txt": b" 0 \n"}, ["0", "1", "2"]),
    "names": ({"cls": b"dog"}, {"txt": "größe".encode()}, ["dog", "größe"]),
    "json": ({"json": b'{"label": 1, "more": []}'}, {"json": b'{"cls": "0"}', "txt": b"a caption"}, ["0", "1"]),
    "plain json": ({"json": b"1"}, {"json": b'"0"'}, ["0", "1"]),
    "order": ({"cls": b"1", "json": b'{"label": 7}', "txt": b"8"}, {"json": b'{"x": 1}', "txt": b"0"}, ["0", "1"]),
}


@pytest.mark.parametrize("kind", LABEL_FILES)
def test_kinds_of_labels(kind: str, tmp_path: Path) -> None:
    first, second, names = LABEL_FILES[kind]
    samples = {"1": {"png": b"x", **first}, "2": {"jpeg": b"y", **second}}
    files = {f"{key}.{ending}": content for key, each in samples.items() for ending, content in each.items()}
    write_tar(tmp_path / "train" / "0.tar", files)
    write_tar(tmp_path / "test" / "0.tar", {name: files[name] for name in files if name.startswith("1.")})
    source = read_webdataset(tmp_path, "train")
    assert source.class_names == read_webdataset(tmp_path, "val").class_names == names
    texts = {"numbers": [2, 0], "names": [0, 1]}.get(kind, [1, 0])
    assert [label for label, _ in _contents(source)] == texts


def test_class_names(tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_text("cat\ndog\nemu\n\n")
    write_tar(tmp_path / "val-000.tar", {"1.jpg": b"x", "1.cls": b"emu", "2.jpg": b"y", "2.cls": b"cat"})
    source = read_webdataset(tmp_path, "val")
    assert (source.class_names, [label for label, _ in _contents(source)]) == (["cat", "dog", "emu"], [2, 0])
    write_tar(tmp_path / "val-000.tar", {"1.jpg": b"x", "1.cls": b"1"})
    assert read_webdataset(tmp_path, "val")[0].label == 1


def test_a_share_is_held_out(tmp_path: Path) -> None:
    files = {f"{n}.{end}": b"%d" % (n % 2) for n in range(20) for end in ("jpg", "cls")}
    write_tar(tmp_path / "one" / "0000.tar", files)
    train, val = (read_webdataset(tmp_path / "one", split, 0.1) for split in ("train", "val"))
    assert np.bincount([label for label, _ in _contents(val)]).tolist() == [1, 1]
    assert sorted(_contents(train) + _contents(val)) == sorted(_contents(read_webdataset(tmp_path / "one", "val")))
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert read_webdataset(tmp_path / "two", "val", 0.1).fingerprint() == val.fingerprint()
    with pytest.raises(UserError, match="no tars called train or training"):
        read_webdataset(tmp_path / "two", "train")


def test_what_is_skipped(tmp_path: Path) -> None:
    files = {"1.jpg": b"x", "1.cls": b"0", "2.cls": b"1", "3.jpg": b"z", "4.jpg": b"", "4.cls": b"1", "README": b""}
    write_tar(tmp_path / "train-0000.tar", {**files, "._1.jpg": b"mac", "5.jpg": b"5", "5.cls": b"x" * 1000})
    write_tar(tmp_path / "train-0003.tar", {"1.cls": b"1", "0.jpg": b"", "1.jpg": b"last"})
    write_tar(tmp_path / "val-0000.tar", {"1.jpg": b"x", "1.cls": b"0"})
    write_tar(tmp_path / "more-0000.tar", {"1.jpg": b"x", "1.cls": b"0"})
    source = read_webdataset(tmp_path, "train")
    assert _contents(source) == [(0, b"x"), (1, b"last")]
    assert list(source.remarks) == [
        "only train and val used, not other tars",
        "samples skipped that have no image: 1",
        "images skipped that are empty or have no label: 4",
        "tars that seem to be missing: train-0001, train-0002",
    ]


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"1.jpg": b"x"}, "tars without any image with a label"),
        ({"1.jpg": b"x", "1.cls": b"3"}, "labels that are no class of the 3: 3: list all class names"),
        ({"1.jpg": b"x", "1.cls": b"dog"}, "labels that are no class of the 3: dog"),
        ({"1.jpg": b"x", "1.cls": b"1", "1.JPG": b"x"}, r"val-0\.tar has '1\.JPG' twice"),
    ],
)
def test_refusals(files: dict[str, bytes], complaint: str, tmp_path: Path) -> None:
    write_tars(tmp_path)
    for path in tmp_path.glob("*val*"):
        path.unlink()
    write_tar(tmp_path / "val-0.tar", files)
    with pytest.raises(UserError, match=complaint):
        read_webdataset(tmp_path, "val")


def test_a_cut_tar(tmp_path: Path) -> None:
    write_tars(tmp_path)
    path = tmp_path / "photos-train-000001.tar"
    path.write_bytes(path.read_bytes()[:1200])
    with pytest.raises(UserError, match=r"photos-train-000001\.tar ends"):
        read_webdataset(tmp_path, "train")


@pytest.mark.parametrize("wrong", ["offsets", "sizes", "keys_ends", "labels_ends", "skipped", "labels"])
def test_an_index_that_is_not_of_this_tar(wrong: str, tmp_path: Path) -> None:
    """Of the right size and time, and yet wrong: rebuilt."""
    source = read_webdataset(write_tars(tmp_path), "train")
    index = tmp_path / "photos-train-000000.tar.index.npz"
    with np.load(index) as loaded:
        arrays = dict(loaded)
    arrays[wrong] = arrays[wrong][:-1] if wrong in ("skipped", "labels") else arrays[wrong] + 1_000_000
    np.savez(index, allow_pickle=False, **arrays)
    assert _contents(read_webdataset(tmp_path, "train")) == _contents(source)
