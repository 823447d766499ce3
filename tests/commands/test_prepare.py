"""`main.py prepare`: a folder of photographs and a CIFAR become data sets, and mistakes one line."""

from pathlib import Path

import pytest

from cdnv2_jax.data.sources.tfds import read_tfds
from tests.commands.shell import Shell
from tests.data.sources.cifar_binaries import image_and_label, write_folder
from tests.data.sources.imagenet_archives import CLASSES, JPEG, LABELS, write_archives
from tests.data.sources.photographs import write_photographs
from tests.data.sources.webdataset_tars import write_tar


@pytest.fixture
def photographs(shell: Shell) -> Path:
    return write_photographs(shell.directory / "photographs")


def test_image_folder(photographs: Path, shell: Shell) -> None:
    output = shell.directory / "out"
    arguments = ["prepare", "--source", "image_folder", "--directory", photographs, "--output", output]
    printed = shell.succeeds("main.py", *arguments, "--name", "photos", "--shard-mib", "1")
    assert printed.endswith(f"{output / 'photos' / '1.0.0'}: 5 train, 2 val images of 4 classes\n")
    source = read_tfds(output, "val")
    assert source[0].image == (photographs / "val" / "place" / "flower.jpg").read_bytes()
    assert "exists" in shell.refuses("main.py", *arguments, "--name", "photos")
    shell.succeeds("main.py", *arguments, "--name", "photos", "--overwrite")
    assert [path.name for path in output.iterdir()] == ["photos"]


def test_short_side(photographs: Path, shell: Shell) -> None:
    arguments = ["--source", "image_folder", "--directory", photographs, "--output", shell.directory / "out"]
    shell.succeeds("main.py", "prepare", *arguments, "--short-side", "256")
    trained, held_out = (read_tfds(shell.directory / "out", split) for split in ("train", "val"))
    assert min(trained[0].pixels().shape[:2]) == 256
    assert held_out[0].image == (photographs / "val" / "place" / "flower.jpg").read_bytes()


def test_cifar(shell: Shell) -> None:
    write_folder(shell.directory / "data", "cifar10")
    arguments = ["--source", "cifar10", "--directory", shell.directory / "data", "--output", shell.directory / "out"]
    shell.succeeds("main.py", "prepare", *arguments)
    source = read_tfds(shell.directory / "out" / "cifar10", "train")
    assert [source[index].label for index in range(15)] == [
        image_and_label("cifar10", "train", i)[1] for i in range(15)
    ]


def test_webdataset(shell: Shell) -> None:
    """Half of each class is held out of what has no split."""
    files = {
        f"{n}.{end}": JPEG + b"%d" % n if end == "jpg" else b"%d" % (n % 2) for n in range(8) for end in ("jpg", "cls")
    }
    write_tar(shell.directory / "tars" / "000.tar", files)
    arguments = ["--source", "webdataset", "--directory", shell.directory / "tars", "--output", shell.directory / "out"]
    printed = shell.succeeds("main.py", "prepare", *arguments, "--held-out-fraction", "0.5")
    assert "val: 4 of 8 images held out, 0.5 of every class" in printed
    held_out = read_tfds(shell.directory / "out" / "webdataset", "val")
    assert [held_out[index].label for index in range(4)] == [int(str(held_out[i].image)[-2]) % 2 for i in range(4)]


def test_imagenet(shell: Shell) -> None:
    (shell.directory / "data").mkdir()
    write_archives(shell.directory / "data")
    arguments = ["--directory", shell.directory / "data", "--output", shell.directory / "out"]
    shell.succeeds("main.py", "prepare", "--source", "imagenet_tars", *arguments)
    source = read_tfds(shell.directory / "out", "val")
    assert [source[index].label for index in range(len(source))] == LABELS
    assert source.class_names == CLASSES


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--name", "My Data"], "--name 'My Data'"),
        (["--shard-mib", "0"], "--shard-mib 0"),
        (["--short-side", "8"], "--short-side 8"),
        (["--held-out-fraction", "1"], "--held-out-fraction 1"),
        (["--source", "imagenet_tars"], "lacks ILSVRC2012_img_train.tar"),
        (["--source", "digits"], "digits"),
    ],
)
def test_refusals(more: list[str], complaint: str, photographs: Path, shell: Shell) -> None:
    output = shell.directory / "out"
    arguments = ["prepare", "--source", "image_folder", "--directory", photographs, "--output", output]
    assert complaint in shell.refuses("main.py", *arguments, *more)


def test_broken_image(photographs: Path, shell: Shell) -> None:
    broken = photographs / "val" / "thing" / "broken.jpg"
    broken.write_bytes(b"no image")
    arguments = ["prepare", "--source", "image_folder", "--directory", photographs, "--output", shell.directory / "out"]
    outcome = shell.run("main.py", *arguments)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert f"{broken} is not a JPEG, PNG, BMP or WebP file" in outcome.err
    assert not [path for path in (shell.directory / "out").rglob("*") if path.is_file()]
