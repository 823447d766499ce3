"""`main.py train` on real digits: all it promises is there, from the files to the figures in them."""

import csv
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdnv2_jax import load
from cdnv2_jax.classification.evaluation import ClassificationEvaluation
from cdnv2_jax.commands.train import _example_of
from cdnv2_jax.data.sources.open import open_directory
from cdnv2_jax.weights.checkpoint import load_metadata
from tests.commands.runs import records_of, scalars_of, summary_of
from tests.commands.shell import DIGITS, TINY, Shell
from tests.weights.networks import assert_same_network, contents

FILES = {
    *("best", "checkpoints", "condensed", "masked", "tensorboard"),
    *("config.json", "data.json", "lock", "metrics.jsonl", "per_class.csv", "predictions.csv", "summary.json"),
    *("learning_curves.png", "sparsity.png"),
}


def test_files(smoke_run: Path) -> None:
    assert {entry.name for entry in smoke_run.iterdir()} == FILES


def test_summary(smoke_run: Path) -> None:
    summary = summary_of(smoke_run)
    assert list(summary) == ["weights", "masked", "condensed", "EMA", "live", "max_logit_difference", "stages_passed"]
    assert list(summary["EMA"]) == list(summary["live"]) == ["accuracy", "top5", "loss"]
    costs = ["multiply_adds", "flops", "params", "bytes_on_disk", "ms_per_image"]
    for form in ("masked", "condensed"):
        assert list(summary[form]) == ["accuracy", "top5", "loss", *costs]
        listed = subprocess.run(
            ["find", smoke_run / form, "-type", "f", "-printf", "%s\n"], capture_output=True, text=True
        )
        assert summary[form]["bytes_on_disk"] == sum(map(int, listed.stdout.split()))
        assert 0 <= summary[form]["accuracy"] <= 1
        assert isinstance(summary[form]["flops"], int) and isinstance(summary[form]["params"], int)
        assert summary[form]["ms_per_image"] > 0
    assert summary["masked"]["flops"] == summary["condensed"]["flops"]
    assert summary["masked"]["multiply_adds"] > summary["condensed"]["multiply_adds"]
    assert 0 <= summary["max_logit_difference"] < 1e-5


def test_two_steps_pass_all_three_stages(smoke_run: Path) -> None:
    """As short as it is: no stage is left out."""
    assert summary_of(smoke_run)["stages_passed"] == 3
    masked = load(smoke_run / "masked")
    assert all(np.asarray(conv.mask[...]).mean() == 0.25 for conv in masked.masked_convs())


@pytest.mark.parametrize("name", ["learning_curves.png", "sparsity.png"])
def test_plots(name: str, smoke_run: Path) -> None:
    with Image.open(smoke_run / name) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 200
        assert len(image.convert("RGB").getcolors(2**24) or []) > 10  # something is drawn on it


def test_metrics(smoke_run: Path) -> None:
    records = records_of(smoke_run)
    assert [(record["kind"], record["step"]) for record in records] == [
        ("train", 1),
        ("stage", 1),
        ("train", 2),
        ("eval", 2),
    ]
    assert all(np.isfinite(record["loss"]) for record in records if "loss" in record)
    assert records[1]["stage"] == 3
    # All three stages at once: three quarters of the connections of each layer's LGC and SFR, and the lighter ones.
    assert records[1]["cut_connections"] == [0.75] * 12
    assert len(records[1]["cut_weight"]) == 12 and all(0.3 < share < 0.75 for share in records[1]["cut_weight"])
    summary = summary_of(smoke_run)
    assert records[-1]["weights"] == "EMA"
    for weights, prefix in (("EMA", ""), ("live", "live_")):
        assert {name: records[-1][f"{prefix}{name}"] for name in ("top1", "top5", "loss")} == {
            "top1": summary[weights]["accuracy"],
            "top5": summary[weights]["top5"],
            "loss": summary[weights]["loss"],
        }


def test_tensorboard_holds_the_same(smoke_run: Path) -> None:
    expected = {
        (f"{record['kind']}/{name}", record["step"]): pytest.approx(value, rel=1e-6)  # they are of single precision
        for record in records_of(smoke_run)
        for name, value in record.items()
        if name not in ("kind", "step", "weights") and not isinstance(value, list)
    }
    assert scalars_of(smoke_run) == expected
    assert ("train/loss", 2) in expected and ("eval/top1", 2) in expected


def test_live_weights_are_those_of_a_run_without_averages(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The average follows the weights and does nothing to them: both runs train the same network. As the live weights
    score higher here, by the loss, both keep the same, too."""
    monkeypatch.setattr(ClassificationEvaluation, "score", property(lambda evaluation: -evaluation.loss))
    for workdir, decay in (("averaged", 0.9), ("plain", 0.0)):
        arguments = (*TINY, "--workdir", workdir, f"--config.ema_decay={decay}")
        shell.succeeds("main.py", "train", "--config", DIGITS, *arguments)
    averaged, plain = summary_of(Path("averaged")), summary_of(Path("plain"))
    assert plain["weights"] == "live" and not {"EMA", "live"} & plain.keys()
    assert averaged["live"]["loss"] == pytest.approx(plain["masked"]["loss"], rel=1e-5)
    assert averaged["live"]["accuracy"] == plain["masked"]["accuracy"]
    assert averaged["EMA"]["loss"] > averaged["live"]["loss"] == averaged["masked"]["loss"]
    assert averaged["weights"] == "live"
    for network in ("masked", "condensed", "best"):
        assert load_metadata(Path("averaged") / network)["metadata"]["weights"] == "live"
        assert_same_network(load(Path("averaged") / network), load(Path("plain") / network))
    assert records_of(Path("plain"), "eval")[-1]["weights"] == "live"
    assert records_of(Path("averaged"), "eval")[-1]["live_top1"] == plain["masked"]["accuracy"]


def test_checkpoints_carry_name_and_accuracy(smoke_run: Path) -> None:
    for form in ("masked", "condensed"):
        kept = load_metadata(smoke_run / form)
        assert kept["name"] == "cdnv2_cifar_110"
        assert kept["form"]["condensed"] == (form == "condensed")
        assert kept["metadata"]["accuracy"] == summary_of(smoke_run)[form]["accuracy"]
        assert kept["metadata"]["weights"] == summary_of(smoke_run)["weights"]


def test_what_is_printed(smoke_run: Path) -> None:
    printed = (smoke_run.parent / "printed.txt").read_text(encoding="utf-8")
    printed = " ".join(printed.split())  # lines are broken where they are too long
    for line in (
        "cdnv2_cifar_110 on 1 cpu device → ",
        "train: 1,437 images of 10 classes, digits",
        "held out: 360 images of 10 classes, digits",
        # As in the table at the end and, for the whole network, in tests/networks/test_cost.py.
        "network: 58,906 parameters; multiply-adds: 2,247,936 masked, 1,326,336 condensed; official FLOPs: 1,398,216",
        "training: 2 steps, 480 images each, 1 epoch, learning rate 0.1, EMA decay 0.9",
        "condensation stages: 3, after epoch 0.5",
        "config.ema_decay 0.9 averages over 10 steps, but the run has 2: averaged weights lag behind to the end",
        "stage 3 of 3 passed, 75.0%",
        "epoch 1: held-out accuracy",
        "│ multiply-adds (true) │ 2,247,936 │ 1,326,336 │",
        "│ size on disk │ 0.",
        "kept in masked and condensed: accuracy",
        "summary: ",
        "next: ",
    ):
        assert line in printed


def test_commands_to_type_next(smoke_run: Path, tmp_path: Path) -> None:
    """As a shell takes them apart, the program takes them. Digits are no files."""
    *_, predict, report = (smoke_run.parent / "printed.txt").read_text(encoding="utf-8").splitlines()
    assert shlex.split(predict)[1:] == ["python", "main.py", "predict", "--checkpoint", str(smoke_run), "IMAGE"]
    assert shlex.split(report) == ["python", "main.py", "report", "--workdir", str(smoke_run)]
    for name in ("my cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "it's 1.png")
        Image.new("RGB", (8, 8)).save(tmp_path / name / "2.png")
    (example,) = shlex.split(_example_of(open_directory("image_folder", str(tmp_path), "val", 0.5)))
    assert Path(example).is_file() and Path(example).is_relative_to(tmp_path)


@pytest.mark.parametrize("form", ["masked", "condensed"])
def test_eval_agrees_with_the_summary(form: str, smoke_run: Path, shell: Shell) -> None:
    """From the loaded checkpoint, by way of another batch size: the same accuracy."""
    arguments = ("--config", DIGITS, "--checkpoint", smoke_run / form, "--output", "logits.npz")
    printed = shell.succeeds("main.py", "eval", *arguments, "--config.data.eval_batch_size=77")
    accuracy = summary_of(smoke_run)[form]["accuracy"]
    with np.load("logits.npz") as saved:
        assert saved["logits"].shape == (360, 10)
        assert (saved["logits"].argmax(1) == saved["labels"]).mean() == accuracy
    assert f"top-1 {accuracy:.4%}" in printed
    assert f"{summary_of(smoke_run)[form]['params']:,} parameters" in printed


def test_predictions_are_those_of_eval(smoke_run: Path, shell: Shell) -> None:
    """Image by image: the class with the largest logit, and its probability by its definition."""
    arguments = ("--config", DIGITS, "--checkpoint", smoke_run, "--output", "logits.npz")
    assert shell.succeeds("main.py", "eval", *arguments).startswith(f"network: {smoke_run / 'condensed'}\n")
    with np.load("logits.npz") as saved:
        logits, labels = saved["logits"].astype(np.float64), saved["labels"]
    with (smoke_run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["image"]) for row in rows] == list(range(360))
    assert [int(row["label"]) for row in rows] == labels.tolist()
    assert [int(row["predicted"]) for row in rows] == logits.argmax(1).tolist()
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose([float(row["probability"]) for row in rows], shares.max(1), atol=1e-5)


def test_condense_agrees_with_the_run(smoke_run: Path, shell: Shell) -> None:
    printed = shell.succeeds("main.py", "condense", "--checkpoint", smoke_run / "masked", "--output", "condensed")
    assert "cdnv2_cifar_110 condensed: condensed" in printed
    assert_same_network(load("condensed"), load(smoke_run / "condensed"))


def test_report_draws_anew(smoke_run: Path, shell: Shell) -> None:
    workdir = Path(shutil.copytree(smoke_run, "run"))
    for name in ("learning_curves.png", "sparsity.png"):
        (workdir / name).unlink()
    printed = shell.succeeds("main.py", "report", "--workdir", workdir)
    assert printed.split() == ["run/learning_curves.png", "run/sparsity.png", "run/report.html"]
    assert contents(workdir).keys() == {*contents(smoke_run), "report.html"}


def test_finished_run_is_not_touched(smoke_run: Path, shell: Shell) -> None:
    shutil.copytree(smoke_run, "run")
    complaint = shell.refuses("main.py", "train", "--config", DIGITS, "--workdir", "run")
    assert "holds this finished run" in complaint
    assert "--overwrite" in complaint


def test_overwriting_a_finished_run(smoke_run: Path, shell: Shell) -> None:
    """Of another config even: nothing of the old run is left, and what is not a run's stays."""
    workdir = Path(shutil.copytree(smoke_run, "run"))
    (workdir / "notes.txt").write_text("mine")
    shell.succeeds("main.py", "train", "--config", DIGITS, "--workdir", "run", "--overwrite", *TINY)
    assert {entry.name for entry in workdir.iterdir()} == {*FILES, "notes.txt"}
    assert [record["step"] for record in records_of(workdir) if record["kind"] == "train"] == [1, 2]
    assert load(workdir / "masked").dense_blocks == (1,)
    assert json.loads((workdir / "config.json").read_text())["data"]["image_size"] == 8
