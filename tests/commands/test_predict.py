"""`main.py predict`: what it prints, with networks from everywhere, and how it ends."""

import csv
import dataclasses
import io
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from cdnv2_jax import UserError, save
from cdnv2_jax.commands.arguments import read_class_names
from cdnv2_jax.commands.main import RESULT_FORMATS
from cdnv2_jax.commands.result_formats import FORMATS, print_json
from cdnv2_jax.data.decode import decode
from cdnv2_jax.data.preparation import CIFAR10, ImagePreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.networks.zoo import architecture_of
from tests.commands.shell import Shell
from tests.data.image_files import write_noise
from tests.weights.networks import network, used
from tests.weights.official_files import twin_in_form

USAGE = Usage(ImagePreparation(16, "centre", "bilinear", *CIFAR10), ("cat", "dog", "eel"))
ALBUM = ["album/a/0.png", "album/a/1.png", "album/b/0.png"]


@pytest.fixture
def here(shell: Shell) -> Shell:
    """A network and three images."""
    save("network", used(network("condensed"), USAGE))
    write_noise(Path("album"), ["a"], 2)
    write_noise(Path("album"), ["b"], 1, seed=1)
    return shell


def probabilities(path: str) -> np.ndarray:
    image = USAGE.preparation(decode(Path(path).read_bytes(), path))
    return softmax(np.asarray(network("condensed")(jnp.asarray(image[None]))[0], np.float64))


def predicts(here: Shell, *arguments: str) -> str:
    """What it prints when all goes well: the results, and one line on standard error."""
    outcome = here.run("main.py", "predict", "--checkpoint", "network", *arguments)
    assert outcome.status == 0 and outcome.err.count("\n") == 1, outcome
    return outcome.out


@pytest.mark.parametrize("exported", ["", "onnx", "stablehlo", "safetensors"])
def test_json(exported: str, here: Shell) -> None:
    """The same whatever the network is read from."""
    checkpoint = f"it.{exported}" if exported else "network"
    if exported:
        here.succeeds("main.py", "export", "--checkpoint", "network", "--format", exported, "--output", checkpoint)
    outcome = here.run("main.py", "predict", "--checkpoint", checkpoint, "--format", "json", "--top", "2", "album")
    assert outcome.err == f"3 images; class names from {checkpoint}; 16 px, centre crop, bilinear\n"
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert [line["image"] for line in lines] == ALBUM
    for line in lines:
        expected = probabilities(line["image"])
        assert [one["label"] for one in line["classes"]] == np.argsort(-expected)[:2].tolist()
        for one in line["classes"]:
            assert one["name"] == USAGE.class_names[one["label"]]
            assert one["probability"] == pytest.approx(expected[one["label"]], abs=1e-5)


def test_text(here: Shell) -> None:
    Path("names.txt").write_text("Katze\nHund\n\nAal\n")
    printed = predicts(here, "--class-names", "names.txt", ALBUM[2], ALBUM[0])
    expected = []
    for path in (ALBUM[2], ALBUM[0]):
        found = probabilities(path)
        names = zip(("Katze", "Hund", "Aal"), found, strict=True)
        expected += [path, *(f"{share:8.2%}  {name}" for name, share in sorted(names, key=lambda one: -one[1]))]
    assert printed.splitlines() == expected


def test_csv(here: Shell) -> None:
    """A header, then a row per image and rank; readers of CSV see the names as they are."""
    shutil.copy(ALBUM[0], 'a, "b".png')
    rows = list(csv.DictReader(io.StringIO(predicts(here, "--format", "csv", "--top", "2", 'a, "b".png', "album/b"))))
    found = [
        json.loads(line)
        for line in predicts(here, "--format", "json", "--top", "2", 'a, "b".png', "album/b").splitlines()
    ]
    expected = [
        {"image": image["image"], "rank": rank, **{key: one[key] for key in ("label", "name", "probability")}}
        for image in found
        for rank, one in enumerate(image["classes"], start=1)
    ]
    assert rows == [{key: str(value) for key, value in row.items()} for row in expected]
    assert list(rows[0]) == ["image", "rank", "label", "name", "probability"] and rows[0]["image"] == 'a, "b".png'


def test_formats_are_those_of_the_flag() -> None:
    assert tuple(FORMATS) == RESULT_FORMATS


def test_a_run(here: Shell) -> None:
    """Of the networks that are there the best for the purpose, and it is said which."""
    Path("run").mkdir()
    Path("run/config.json").write_text("{}")
    save("run/masked", network("pruned"))
    for name in ("condensed", "best", "plain"):
        shutil.copytree("network", f"run/{name}")
    assert here.succeeds("main.py", "condense", "--checkpoint", "run", "--output", "o").startswith(
        "network: run/masked\n"
    )
    for name in ("condensed", "best", "masked", "plain"):
        outcome = here.run("main.py", "predict", "--checkpoint", "run", ALBUM[0])
        assert (outcome.status, outcome.err.splitlines()[0]) == (0, f"network: run/{name}")
        if name == "condensed":
            exported = ("export", "--checkpoint", "run", "--format", "safetensors", "--output", "o.safetensors")
            assert here.succeeds("main.py", *exported).startswith(f"network: run/{name}\n")
        shutil.rmtree(f"run/{name}")


def test_a_run_that_has_no_network(here: Shell) -> None:
    """Nor is the state that it resumes from a network."""
    Path("run/checkpoints/7").mkdir(parents=True)
    Path("run/metrics.jsonl").touch()
    for verb in (("predict", "album"), ("condense", "--output", "o"), ("export", "--output=o.onnx", "--format=onnx")):
        complaint = here.refuses("main.py", verb[0], "--checkpoint", "run", *verb[1:])
        assert "run is the directory of a run without network " in complaint
    shutil.copytree("network", "run/condensed")
    complaint = here.refuses("main.py", "condense", "--checkpoint", "run", "--output", "o")
    assert "without network masked or best so far (only condensed)" in complaint
    for inner in ("run/checkpoints", "run/checkpoints/7"):
        complaint = here.refuses("main.py", "predict", "--checkpoint", inner, "album")
        assert f"{inner} holds the state of training" in complaint


def test_a_list_on_standard_input(here: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines, also of Windows, and the zeros of `find -print0`; of names that are any bytes."""
    odd = os.fsdecode(b" caf\xe9 .png")
    shutil.copy(ALBUM[1], odd)
    for between in ("\n", "\r\n", "\n\n", "\0"):
        listed = os.fsencode(f"{odd}{between}{ALBUM[2]}{between}")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed), encoding="utf-8"))
        printed = predicts(here, "--format", "json", ALBUM[0], "-")
        assert [json.loads(line)["image"] for line in printed.splitlines()] == [ALBUM[0], odd, ALBUM[2]]


def test_no_list_on_standard_input(here: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an image nor nothing keeps the other images."""
    for content, status, images, complaint in (
        (Path(ALBUM[0]).read_bytes(), 2, "1 image;", "standard input is a PNG image, but - takes paths"),
        (f"{ALBUM[2]}\n".encode("utf-16"), 2, "1 image;", "standard input is text in UTF-16"),
        (b"a.png" * 20_000, 2, "1 image;", "standard input is not a list of paths"),
        (b"", 0, "1 image;", ""),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        outcome = here.run("main.py", "predict", "--checkpoint", "network", "--format", "json", ALBUM[1], "-")
        assert (outcome.status, json.loads(outcome.out)["image"]) == (status, ALBUM[1])
        assert outcome.err.startswith(images) and complaint in outcome.err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert here.run("main.py", "predict", "--checkpoint", "network", "-").err.startswith("0 images;")


def test_interrupted(here: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was printed by then stays, also where output goes to a file."""
    interrupted = mock.Mock(side_effect=[print_json, KeyboardInterrupt])
    monkeypatch.setitem(FORMATS, "json", lambda result: interrupted()(result))
    with open("out.jsonl", "w", encoding="utf-8") as out, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", out)
        outcome = here.run("main.py", "predict", "--checkpoint", "network", "--format", "json", "album")
        printed = Path("out.jsonl").read_text(encoding="utf-8")
    assert (outcome.status, outcome.err) == (130, "main.py predict: interrupted\n")
    assert json.loads(printed)["image"] == ALBUM[0]


def test_progress(here: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar in a terminal, unless the results are printed there, too."""
    terminal = mock.Mock(wraps=io.StringIO(), encoding="utf-8")
    terminal.isatty.return_value = True
    arguments = ("predict", "--checkpoint", "network", "album")
    monkeypatch.setenv("TERM", "xterm")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal)
        assert here.run("main.py", *arguments).out.count("album/") == 3
        assert "3/3" in "".join(call.args[0] for call in terminal.write.call_args_list)
        terminal.write.reset_mock()
        patched.setattr(sys, "stdout", terminal)
        here.run("main.py", *arguments)
        assert "3/3" not in "".join(call.args[0] for call in terminal.write.call_args_list)


def test_names_that_are_not_utf_8(here: Shell) -> None:
    """The JSON is valid and holds the name; in text its bytes are escapes."""
    odd = os.fsdecode(b"album/caf\xe9.png")
    shutil.copy(ALBUM[0], odd)
    os.symlink("nowhere", os.fsdecode(b"album/\xff.png"))
    outcome = here.run("main.py", "predict", "--checkpoint", "network", "--format", "json", "album")
    assert [json.loads(line.encode())["image"] for line in outcome.out.splitlines()] == [odd, *ALBUM]
    summary, complaint = outcome.err.splitlines()
    assert (outcome.status, summary) == (
        2,
        "4 images, 1 skipped (1 unreadable); class names from network; 16 px, centre crop, bilinear",
    )
    assert "cannot be read as an image (No such file or directory)" in complaint
    assert predicts(here, odd).startswith("album/caf\\udce9.png\n")


HOSTILE = ("[/red]\x1b[31mcat", "\u202edog\x9b2J\n", "$\\frac$ <b>")


def test_names_that_a_terminal_would_obey(here: Shell) -> None:
    """Paths and classes are printed as escapes, JSON's own with --format json."""
    usage = dataclasses.replace(USAGE, class_names=HOSTILE)
    save("\x1b[3J", used(network("condensed"), usage))
    odd = "\x1b[2J[red]\u2028.png"
    shutil.copy(ALBUM[0], odd)
    for flags in ([], ["--format", "json"]):
        outcome = here.run("main.py", "predict", "--checkpoint", "\x1b[3J", *flags, odd)
        assert (outcome.status, outcome.out.count("\n")) == (0, 1 if flags else 4)
        assert all(line.isprintable() for line in (outcome.out + outcome.err).split("\n"))
    found = json.loads(outcome.out)
    assert found["image"] == odd and {one["name"] for one in found["classes"]} == set(HOSTILE)


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize backend\nmore")])
def test_devices_that_cannot_be_started(error: Exception, here: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said of the platform, not of the checkpoint."""

    def fail() -> None:
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", fail)
    for arguments in (
        ("predict", "--checkpoint", "network", "album"),
        ("condense", "--checkpoint=network", "--output=o"),
    ):
        complaint = here.refuses("main.py", *arguments)
        assert "JAX cannot start the devices of JAX_PLATFORMS=cuda" in complaint and "JAX_PLATFORMS=cpu" in complaint


def test_files_that_are_none(here: Shell) -> None:
    """Pipes, sockets, devices and directories are neither waited for nor read; PostScript is not run."""
    os.mkfifo("pipe.png")
    os.symlink("/dev/zero", "endless.png")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.png")
    complaint = "".join(
        here.refuses("main.py", "predict", "--checkpoint", "network", name)
        for name in ("pipe.png", "endless.png", "socket.png")
    )
    assert complaint.count("cannot be read as an image (it is a pipe, a socket or a device, not a regular file)") == 3
    assert complaint.count("\n") == 3


def test_a_reader_that_leaves(here: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `head` does, without a traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as closed, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", closed)
        outcome = here.run("main.py", "predict", "--checkpoint", "network", "album")
    assert (outcome.status, outcome.err) == (141, "")


def test_home(here: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a value such as --checkpoint=~/network the shell leaves the ~ to the program."""
    monkeypatch.setenv("HOME", str(here.directory))
    Path("names.txt").write_text("a\nb\nc\n")
    arguments = ("--format", "json", "--checkpoint=~/network", "--class-names=~/names.txt", "~/album/b")
    outcome = here.run("main.py", "predict", *arguments)
    assert json.loads(outcome.out)["image"] == str(here.directory / ALBUM[2])
    assert "must be a path, got ''" in here.refuses("main.py", "predict", "--checkpoint", "", "album")


def test_largest_image(here: Shell) -> None:
    Image.new("1", (1001, 1000)).save("large.png")
    complaint = here.refuses("main.py", "predict", "--checkpoint", "network", "--max-megapixels", "1", "large.png")
    assert "large.png cannot be read as an image (it has more than 1 megapixels)" in complaint
    assert "--max-megapixels" in complaint
    assert predicts(here, "large.png")


NAMES = {
    "byte-order mark, Windows": b"\xef\xbb\xbfcat\r\ndog\r\n\xc3\xa9el\r\n\r\n\r\n",
    "old Macs": "cat\rdog\réel".encode(),
}


@pytest.mark.parametrize("content", NAMES.values(), ids=NAMES)
def test_class_names(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    assert read_class_names(tmp_path / "names.txt") == ["cat", "dog", "éel"]


def test_class_names_that_are_the_same_or_odd(tmp_path: Path) -> None:
    """ImageNet has two cranes. Only ends of lines separate names."""
    (tmp_path / "names.txt").write_text("crane\na\u2028b\x0c\u0085c\ncrane\n", encoding="utf-8")
    assert read_class_names(tmp_path / "names.txt") == ["crane", "a\u2028b\x0c\u0085c", "crane"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("cat\ndog\n".encode("utf-16"), r"cannot be read \(it is not text in UTF-8 .*: give a text file in UTF-8"),
        ("cat\ndog\n".encode("utf-16-le"), r"cannot be read \(it is not text in UTF-8, but perhaps in UTF-16\)"),
        (b"caf\xe9\n", r"cannot be read \(it is not text in UTF-8 \(byte 3\)"),
        (b"\xef\xbb\xbf\r\n \n", "is empty: write one name per line"),
        (None, r"cannot be read \(it is a directory\)"),
    ],
)
def test_files_without_class_names(content: bytes | None, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=f"--class-names .*names.txt {complaint}"):
        read_class_names(file)


def test_unreadable_images(here: Shell) -> None:
    """The others are printed; each that cannot be read gets a line; the status tells."""
    Path("broken.png").write_bytes(b"")
    outcome = here.run(
        "main.py",
        "predict",
        "--checkpoint",
        "network",
        "--format",
        "json",
        "broken.png",
        ALBUM[0],
        "missing.png",
        ALBUM[1],
    )
    assert outcome.status == 2
    assert [json.loads(line)["image"] for line in outcome.out.splitlines()] == ALBUM[:2]
    summary, first, second = outcome.err.splitlines()
    assert summary == "2 images, 2 skipped (2 unreadable); class names from network; 16 px, centre crop, bilinear"
    assert first == "main.py predict: broken.png cannot be read as an image (it is empty): fix or remove it"
    assert second.startswith("main.py predict: missing.png cannot be read as an image (No such file or directory)")


def test_choice_of_weights(shell: Shell) -> None:
    """Which weights were taken is said, but not where the predictions are."""
    state = twin_in_form(architecture_of("condensenet_50"), 0).state_dict()
    torch.save({"state_dict": state, "state_dict_ema": state, "arch": "condensenet_50"}, "file.pth")
    for weights, taken in {"auto": "EMA weights (state_dict_ema)", "model": "live weights (state_dict)"}.items():
        arguments = ("--checkpoint", "file.pth", "--weights", weights, "--format", "json", "missing.png")
        outcome = shell.run("main.py", "predict", *arguments)
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.startswith(f"weights: {taken}; the file also holds state_dict")
    arguments = ("--checkpoint", "file.pth", "--weights", "ema", "--class-names", "missing", "missing.png")
    assert "--class-names missing" in shell.refuses("main.py", "predict", *arguments)


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no checkpoint": (("--checkpoint", "missing", "album"), "missing: no such file or directory"),
    "no exported file": (("--checkpoint", "missing.onnx", "album"), "missing.onnx: no such file"),
    "not exported by us": (("--checkpoint", "other.onnx", "album"), "other.onnx is not an ONNX file"),
    "no StableHLO": (("--checkpoint", "other.stablehlo", "album"), "other.stablehlo.json, which belongs to"),
    "no safetensors": (("--checkpoint", "other.safetensors", "album"), "is not a complete safetensors file"),
    "a path that is too long": (("--checkpoint", "x" * 300, "album"), "x: File name too long"),
    "an empty path": (("--checkpoint", "network", ""), "the path of an image is empty"),
    "no image": (("--checkpoint", "network"), "required: IMAGE"),
    "one that is none": (("--checkpoint", "network", "network/nothing.png"), "nothing.png cannot be read as an image"),
    "a folder without images": (("--checkpoint", "network", "network"), "network holds no images"),
    "none of the best": (("--checkpoint", "network", "--top", "0", "album"), "must be an integer >= 1"),
    "nothing at once": (("--checkpoint", "network", "--batch-size", "0", "album"), "must be an integer >= 1"),
}


@pytest.mark.parametrize(("arguments", "complaint"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(arguments: tuple[str, ...], complaint: str, here: Shell) -> None:
    for ending in ("onnx", "stablehlo", "safetensors"):
        Path(f"other.{ending}").write_text("nothing of the kind")
    assert complaint in here.refuses("main.py", "predict", *arguments)
