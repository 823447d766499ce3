"""`main.py eval --per-class`: how each class fared, and which published figure is shown beside the whole."""

import csv
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import create_model, save
from tests.commands.shell import DIGITS, REPOSITORY, Shell
from tests.data.image_files import write_noise
from tests.data.sources.cifar_binaries import write_folder
from tests.weights.networks import contents, network


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _by_hand(path: Path, names: list[str]) -> list[dict[str, str]]:
    """The table as it follows from the logits, class by class; of equal logits the first counts as larger."""
    with np.load(path) as saved:
        logits, labels = saved["logits"], saved["labels"]
    five = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    rows = []
    for label, name in enumerate(names):
        mine = five[labels == label]
        row = {"class": name, "images": str(len(mine)), "top1": "", "top5": ""}
        if len(mine):
            row["top1"] = f"{np.mean(mine[:, 0] == label):.6f}"
            row["top5"] = f"{np.mean((mine == label).any(axis=1)):.6f}"
        rows.append(row)
    return rows


def test_digits(smoke_run: Path, shell: Shell) -> None:
    arguments = ("--config", DIGITS, "--checkpoint", smoke_run / "condensed", "--output", "logits.npz")
    shell.succeeds("main.py", "eval", *arguments, "--per-class", "new/table.csv")
    table = _table(Path("new/table.csv"))
    assert table == _by_hand(Path("logits.npz"), list("0123456789"))
    assert sum(int(row["images"]) for row in table) == 360
    # A run leaves the same table of its condensed network.
    assert table == _table(smoke_run / "per_class.csv")


@pytest.fixture
def evaluation(shell: Shell) -> tuple[str, ...]:
    """The command for a network of three classes, one of which has no held-out images."""
    write_noise(Path("images/train"), ["a, b", "c", "d"], each=1)
    write_noise(Path("images/val"), ["a, b", "d"], each=2)
    save("network", network("pruned"))
    return (
        *("main.py", "eval", "--config", DIGITS, "--checkpoint", "network", "--config.model.num_classes=3"),
        *("--config.data.source=image_folder", "--config.data.directory=images", "--config.data.crop=random_resized"),
    )


def test_class_without_images(evaluation: tuple[str, ...], shell: Shell) -> None:
    printed = shell.succeeds(*evaluation, "--output", "logits.npz", "--per-class", "table.csv")
    assert _table(Path("table.csv")) == _by_hand(Path("logits.npz"), ["a, b", "c", "d"])
    assert Path("table.csv").read_text().splitlines()[2] == "c,0,,"
    assert "published" not in printed  # it may have the name of a published network, but not its classes


def test_existing_table(evaluation: tuple[str, ...], shell: Shell) -> None:
    Path("table.csv").write_text("mine")
    complaint = shell.refuses(*evaluation, "--per-class", "table.csv")
    assert "table.csv exists" in complaint and "--overwrite" in complaint
    Path("directory").mkdir()
    assert "is a directory" in shell.refuses(*evaluation, "--per-class", "directory", "--overwrite")
    before = contents(shell.directory)
    shell.succeeds(*evaluation, "--per-class", "table.csv", "--overwrite")
    assert len(_table(Path("table.csv"))) == 3
    after = contents(shell.directory)
    assert {name for name in after if after[name] != before.get(name)} == {"table.csv"}


@pytest.mark.slow  # a whole CondenseNet-50 to draw and to compile, twice
@pytest.mark.parametrize(("dataset", "error"), [("cifar10", 6.22), ("cifar100", None)])
def test_published_figure(dataset: str, error: float | None, shell: Shell) -> None:
    """Only that of the same data set, and none where none was published."""
    classes = {"cifar10": 10, "cifar100": 100}[dataset]
    write_folder(Path("data"), dataset)
    save("network", create_model("condensenet_50", num_classes=classes, rngs=nnx.Rngs(0)))
    config = ("--config", f"{REPOSITORY}/configs/cifar.py:condensenet_50,{dataset}", "--config.data.directory=data")
    printed = shell.succeeds("main.py", "eval", *config, "--checkpoint", "network", "--config.data.eval_batch_size=3")
    assert "published" not in printed if error is None else f"CIFAR-10 top-1: {100 - error:.2f}%" in printed


def test_no_published_figure_for_another_architecture(shell: Shell) -> None:
    """A network of one's own that goes by a published name."""
    write_folder(Path("data"), "cifar10")
    save("network", create_model("condensenet_50", num_classes=10, rngs=nnx.Rngs(0), stages=(1, 1, 1)))
    config = ("--config", f"{REPOSITORY}/configs/cifar.py:condensenet_50,cifar10", "--config.data.directory=data")
    printed = shell.succeeds("main.py", "eval", *config, "--checkpoint", "network", "--config.data.eval_batch_size=3")
    assert "published" not in printed
